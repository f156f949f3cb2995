//! Controllers, scheduler and provisioner wired to the Kubernetes API
