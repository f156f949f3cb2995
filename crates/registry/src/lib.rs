//! REST semantics of the Kubernetes API over schema and store, without HTTP
