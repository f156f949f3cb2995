//! Takes the descriptions out of `k8s-openapi`'s schemas and packs them: a line a description, as
//! `definition<TAB>field<TAB>text`, with an empty field for the definition itself.

use flate2::{Compression, write::DeflateEncoder};
use k8s_openapi::{
    api, apiextensions_apiserver::pkg::apis::apiextensions, apimachinery::pkg as machinery,
    kube_aggregator::pkg::apis::apiregistration,
};
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::Value;
use std::{env, error::Error, fs::File, io::Write, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let mut generator = SchemaSettings::openapi3().into_generator();
    kinds(&mut generator);
    shared(&mut generator);
    let out = Path::new(&env::var("OUT_DIR")?).join("prose.deflate");
    let mut packed = DeflateEncoder::new(File::create(out)?, Compression::best());
    for (name, schema) in generator.take_definitions(true) {
        line(&mut packed, &name, "", &schema)?;
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            line(&mut packed, &name, field, property)?;
        }
    }
    packed.finish()?;
    Ok(())
}

fn line(out: &mut impl Write, def: &str, field: &str, schema: &Value) -> std::io::Result<()> {
    match schema["description"].as_str() {
        // Line breaks are rare, and the form feed does not occur.
        Some(text) => writeln!(out, "{def}\t{field}\t{}", text.replace('\n', "\u{c}")),
        None => Ok(()),
    }
}

/// Everything that is served, and by reference what it consists of.
fn kinds(g: &mut SchemaGenerator) {
    g.subschema_for::<api::admissionregistration::v1::MutatingAdmissionPolicy>();
    g.subschema_for::<api::admissionregistration::v1::MutatingAdmissionPolicyBinding>();
    g.subschema_for::<api::admissionregistration::v1::MutatingWebhookConfiguration>();
    g.subschema_for::<api::admissionregistration::v1::ValidatingAdmissionPolicy>();
    g.subschema_for::<api::admissionregistration::v1::ValidatingAdmissionPolicyBinding>();
    g.subschema_for::<api::admissionregistration::v1::ValidatingWebhookConfiguration>();
    g.subschema_for::<apiextensions::v1::CustomResourceDefinition>();
    g.subschema_for::<apiregistration::v1::APIService>();
    g.subschema_for::<api::apps::v1::ControllerRevision>();
    g.subschema_for::<api::apps::v1::DaemonSet>();
    g.subschema_for::<api::apps::v1::Deployment>();
    g.subschema_for::<api::apps::v1::ReplicaSet>();
    g.subschema_for::<api::apps::v1::StatefulSet>();
    g.subschema_for::<api::authentication::v1::SelfSubjectReview>();
    g.subschema_for::<api::authentication::v1::TokenRequest>();
    g.subschema_for::<api::authentication::v1::TokenReview>();
    g.subschema_for::<api::authorization::v1::LocalSubjectAccessReview>();
    g.subschema_for::<api::authorization::v1::SelfSubjectAccessReview>();
    g.subschema_for::<api::authorization::v1::SelfSubjectRulesReview>();
    g.subschema_for::<api::authorization::v1::SubjectAccessReview>();
    g.subschema_for::<api::autoscaling::v1::HorizontalPodAutoscaler>();
    g.subschema_for::<api::autoscaling::v1::Scale>();
    g.subschema_for::<api::autoscaling::v2::HorizontalPodAutoscaler>();
    g.subschema_for::<api::batch::v1::CronJob>();
    g.subschema_for::<api::batch::v1::Job>();
    g.subschema_for::<api::certificates::v1::CertificateSigningRequest>();
    g.subschema_for::<api::certificates::v1::ClusterTrustBundle>();
    g.subschema_for::<api::certificates::v1::PodCertificateRequest>();
    g.subschema_for::<api::coordination::v1::Lease>();
    g.subschema_for::<api::core::v1::Binding>();
    g.subschema_for::<api::core::v1::ComponentStatus>();
    g.subschema_for::<api::core::v1::ConfigMap>();
    g.subschema_for::<api::core::v1::Endpoints>();
    g.subschema_for::<api::core::v1::Event>();
    g.subschema_for::<api::core::v1::LimitRange>();
    g.subschema_for::<api::core::v1::Namespace>();
    g.subschema_for::<api::core::v1::Node>();
    g.subschema_for::<api::core::v1::PersistentVolume>();
    g.subschema_for::<api::core::v1::PersistentVolumeClaim>();
    g.subschema_for::<api::core::v1::Pod>();
    g.subschema_for::<api::core::v1::PodTemplate>();
    g.subschema_for::<api::core::v1::ReplicationController>();
    g.subschema_for::<api::core::v1::ResourceQuota>();
    g.subschema_for::<api::core::v1::Secret>();
    g.subschema_for::<api::core::v1::Service>();
    g.subschema_for::<api::core::v1::ServiceAccount>();
    g.subschema_for::<api::discovery::v1::EndpointSlice>();
    g.subschema_for::<api::events::v1::Event>();
    g.subschema_for::<api::flowcontrol::v1::FlowSchema>();
    g.subschema_for::<api::flowcontrol::v1::PriorityLevelConfiguration>();
    g.subschema_for::<api::networking::v1::IPAddress>();
    g.subschema_for::<api::networking::v1::Ingress>();
    g.subschema_for::<api::networking::v1::IngressClass>();
    g.subschema_for::<api::networking::v1::NetworkPolicy>();
    g.subschema_for::<api::networking::v1::ServiceCIDR>();
    g.subschema_for::<api::node::v1::RuntimeClass>();
    g.subschema_for::<api::policy::v1::Eviction>();
    g.subschema_for::<api::policy::v1::PodDisruptionBudget>();
    g.subschema_for::<api::rbac::v1::ClusterRole>();
    g.subschema_for::<api::rbac::v1::ClusterRoleBinding>();
    g.subschema_for::<api::rbac::v1::Role>();
    g.subschema_for::<api::rbac::v1::RoleBinding>();
    g.subschema_for::<api::resource::v1::DeviceClass>();
    g.subschema_for::<api::resource::v1::DeviceTaintRule>();
    g.subschema_for::<api::resource::v1::ResourceClaim>();
    g.subschema_for::<api::resource::v1::ResourceClaimTemplate>();
    g.subschema_for::<api::resource::v1::ResourceSlice>();
    g.subschema_for::<api::scheduling::v1::PriorityClass>();
    g.subschema_for::<api::storage::v1::CSIDriver>();
    g.subschema_for::<api::storage::v1::CSINode>();
    g.subschema_for::<api::storage::v1::CSIStorageCapacity>();
    g.subschema_for::<api::storage::v1::StorageClass>();
    g.subschema_for::<api::storage::v1::VolumeAttachment>();
    g.subschema_for::<api::storage::v1::VolumeAttributesClass>();
    g.subschema_for::<api::storagemigration::v1::StorageVersionMigration>();
}

/// What requests and responses of all kinds consist of.
fn shared(g: &mut SchemaGenerator) {
    g.subschema_for::<machinery::apis::meta::v1::APIGroup>();
    g.subschema_for::<machinery::apis::meta::v1::APIGroupList>();
    g.subschema_for::<machinery::apis::meta::v1::APIResourceList>();
    g.subschema_for::<machinery::apis::meta::v1::APIVersions>();
    g.subschema_for::<machinery::apis::meta::v1::DeleteOptions>();
    g.subschema_for::<machinery::apis::meta::v1::ListMeta>();
    g.subschema_for::<machinery::apis::meta::v1::Patch>();
    g.subschema_for::<machinery::apis::meta::v1::Status>();
    g.subschema_for::<machinery::apis::meta::v1::Time>();
    g.subschema_for::<machinery::apis::meta::v1::MicroTime>();
    g.subschema_for::<machinery::apis::meta::v1::WatchEvent<machinery::runtime::RawExtension>>();
    g.subschema_for::<machinery::version::Info>();
}
