//! The API server: TLS, authentication, RBAC, discovery, OpenAPI, watch streams
