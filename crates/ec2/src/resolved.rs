//! Classes: what their terms select, kept for launches and told in their status.

use crate::{
    Ec2,
    class::{Spec, hash},
    client::is_passing,
    discovery::Region,
    machines::CLUSTER,
    profile,
    resolve::{self, Group, Image, Subnet},
};
use coracle_clouds::{Catalogue, ClassCondition, CloudError, Resolved};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Tag of launch templates and machines with their class.
const CLASS_TAG: &str = "karpenter.k8s.aws/ec2nodeclass";
/// What a class selects is looked up again this often, and sooner while something is missing.
const AGAIN: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(30));

/// A class that was resolved.
#[derive(Debug, Default)]
pub(crate) struct Class {
    pub(crate) spec: Spec,
    /// Of what it stamps on machines.
    pub(crate) hash: String,
    /// Why nothing can be launched from it.
    pub(crate) problem: Option<String>,
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) groups: Vec<Group>,
    pub(crate) images: Vec<Image>,
    pub(crate) profile: String,
    pub(crate) catalogue: Arc<Catalogue>,
}

impl Ec2 {
    /// Tags of all that is made for a class.
    pub(crate) fn tags(&self, class: &str, spec: &Spec) -> Vec<(String, String)> {
        let mut all = spec.tags.clone();
        all.insert(CLUSTER.into(), self.settings.cluster.clone());
        all.insert(format!("kubernetes.io/cluster/{}", self.settings.cluster), "owned".into());
        all.insert(CLASS_TAG.into(), class.to_owned());
        all.into_iter().collect()
    }

    fn profile_name(&self, class: &str) -> String {
        let whole = format!("{}/{}/{class}", self.settings.region, self.settings.cluster);
        let digest = ring::digest::digest(&ring::digest::SHA256, whole.as_bytes());
        format!("{}_{}", self.settings.cluster, &crate::client::hex(digest.as_ref())[..16])
    }

    pub(crate) async fn resolve_class(&self, name: &str, class: &Value) -> Resolved {
        let mut found = Found::default();
        let spec = match Spec::read(&class["spec"]) {
            Ok(spec) => spec,
            Err(e) => {
                found.say("ValidationSucceeded", Err(("ValidationFailed", format!("spec: {e}"))));
                return self.keep(name, Class::default(), found);
            }
        };
        if let Some(problem) = spec.problem() {
            found.say("ValidationSucceeded", Err(("ValidationFailed", problem)));
            return self.keep(name, Class { spec, ..Class::default() }, found);
        }
        found.say("ValidationSucceeded", Ok(()));
        let (tags, own) = (self.tags(name, &spec), self.profile_name(name));
        let (region, subnets, groups, images, profile) = tokio::join!(
            self.discovery.region(&self.client, &self.settings.region),
            resolve::subnets(&self.client, &spec.subnet_selector_terms),
            resolve::groups(&self.client, &spec.security_group_selector_terms),
            resolve::images(&self.client, &spec, &self.access.minor),
            profile::find(&self.client, &spec, &own, &tags, self.may_change),
        );
        let errors = [
            region.as_ref().err(),
            subnets.as_ref().err(),
            groups.as_ref().err(),
            images.as_ref().err(),
            profile.as_ref().err(),
        ];
        let passing = errors.into_iter().flatten().find(|e| is_passing(e));
        let old = self.class(name).filter(|c| c.spec == spec && c.problem.is_none());
        if let (Some(e), Some(_)) = (passing, old) {
            // What was found before still holds, as far as anybody knows.
            tracing::warn!(class = name, error = %e, "is looked up again later");
            return Resolved { status: json!({}), conditions: Vec::new(), again: Some(AGAIN.1) };
        }
        let mut new = Class {
            subnets: found.take("SubnetsReady", "SubnetsNotFound", subnets),
            groups: found.take("SecurityGroupsReady", "SecurityGroupsNotFound", groups),
            images: found.take("AMIsReady", "AMINotFound", images),
            spec,
            hash: hash(class),
            ..Class::default()
        };
        match profile {
            Ok(name) => {
                new.profile = name;
                found.say("InstanceProfileReady", Ok(()));
            }
            Err(e) => found.say("InstanceProfileReady", Err(("NotReady", e.to_string()))),
        }
        match region {
            Ok(region) => {
                new.catalogue = Arc::new(self.sold(&new, &region));
                found.say("InstanceTypesReady", Ok(()));
            }
            Err(e) => found.say("InstanceTypesReady", Err(("NotReady", e.to_string()))),
        }
        self.keep(name, new, found)
    }

    /// What machines of a class may be.
    fn sold(&self, class: &Class, region: &Region) -> Catalogue {
        let zones: BTreeSet<&str> = class.subnets.iter().map(|s| s.zone.as_str()).collect();
        let zones: Vec<Arc<str>> = zones.into_iter().map(Into::into).collect();
        let (name, overhead) = (&self.settings.region, self.settings.memory_overhead);
        let sold = region
            .types
            .iter()
            .filter_map(|t| t.sold(&class.spec, name, &zones, &region.prices, overhead));
        let start = sold.filter(|t| class.images.iter().any(|i| i.suits(&t.labels)));
        Catalogue::new(zones.clone(), start.collect::<Vec<_>>())
    }

    fn keep(&self, name: &str, mut class: Class, found: Found) -> Resolved {
        let bad = found.conditions.iter().find(|c| !c.holds);
        class.problem = bad.map(|c| format!("{}: {}", c.kind, c.message));
        let status = json!({
            "subnets": class.subnets.iter().map(|s| json!({"id": s.id, "zone": s.zone, "zoneID": s.zone_id})).collect::<Vec<_>>(),
            "securityGroups": class.groups.iter().map(|g| json!({"id": g.id, "name": g.name})).collect::<Vec<_>>(),
            "amis": class.images.iter().map(Image::status).collect::<Vec<_>>(),
            "instanceProfile": class.profile,
        });
        let again = if bad.is_some() { AGAIN.1 } else { AGAIN.0 };
        let mut classes = self.classes.lock();
        if class.catalogue.types().is_empty() {
            // What there was tells of machines that run.
            if let Some(old) = classes.get(name) {
                class.catalogue = old.catalogue.clone();
            }
        }
        classes.insert(name.to_owned(), Arc::new(class));
        Resolved { status, conditions: found.conditions, again: Some(again) }
    }

    pub(crate) async fn take_down(&self, name: &str, class: &Value) -> Result<(), CloudError> {
        self.classes.lock().remove(name);
        let Ok(spec) = Spec::read(&class["spec"]) else { return Ok(()) };
        if class.is_null() || !self.may_change {
            return Ok(());
        }
        crate::launch::delete_templates(&self.client, CLASS_TAG, name, &self.settings.cluster)
            .await?;
        self.templates.lock().clear();
        profile::delete(&self.client, &spec, &self.profile_name(name)).await
    }
}

/// Conditions as they are found out.
#[derive(Default)]
struct Found {
    conditions: Vec<ClassCondition>,
}

impl Found {
    fn say(&mut self, kind: &'static str, outcome: Result<(), (&str, String)>) {
        let holds = outcome.is_ok();
        let (reason, message) = outcome.err().unwrap_or((kind, String::new()));
        self.conditions.push(ClassCondition { kind, holds, reason: reason.to_owned(), message });
    }

    /// A list that must not be empty.
    fn take<T>(
        &mut self,
        kind: &'static str,
        none: &str,
        found: Result<Vec<T>, CloudError>,
    ) -> Vec<T> {
        match found {
            Ok(all) if all.is_empty() => {
                let said = "the terms of the class select none".to_owned();
                self.say(kind, Err((none, said)));
                Vec::new()
            }
            Ok(all) => {
                self.say(kind, Ok(()));
                all
            }
            Err(e) => {
                self.say(kind, Err(("NotReady", e.to_string())));
                Vec::new()
            }
        }
    }
}
