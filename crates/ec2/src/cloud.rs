//! The cloud as the provisioner sees it: classes resolved, machines launched, found again and ended.

use crate::{
    Access, Settings,
    class::{HASH, HASH_VERSION, Spec, VERSION, hash},
    client::{Client, error},
    discovery::{Discovery, Region},
    launch::{Common, Fleet, Outcome, Template},
    machines::{CLAIM, CLAIM_UID, CLUSTER, Machines, POOL, VISIBLE_AFTER},
    queue,
    resolve::{self, Group, Image, Subnet},
    userdata::Joining,
};
use coracle_clouds::{
    CapacityReservation, CapacityType, Catalogue, ClassCondition, Cloud, CloudError,
    EC2_NODE_CLASS, Ended, Launch, LaunchError, Launched, Machine, NodeClassKind, Notice, Offer,
    Resolved,
};
use futures::future::{BoxFuture, pending};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::OnceCell, time::Instant};

/// Tag of launch templates and machines with their class.
const CLASS_TAG: &str = "karpenter.k8s.aws/ec2nodeclass";
/// What a class selects is looked up again this often, and sooner while something is missing.
const AGAIN: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(30));

/// A class that was resolved.
#[derive(Debug, Default)]
struct Class {
    spec: Spec,
    /// Why nothing can be launched from it.
    problem: Option<String>,
    subnets: Vec<Subnet>,
    groups: Vec<Group>,
    images: Vec<Image>,
    profile: String,
    catalogue: Arc<Catalogue>,
}

/// Launches of a claim that certainly failed, and since when one's outcome is not known.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    failed: u32,
    unknown_since: Option<Instant>,
}

/// The EC2 cloud.
#[derive(Debug)]
pub struct Ec2 {
    settings: Settings,
    access: Access,
    /// Whether what is missing may be made.
    may_change: bool,
    client: Client,
    discovery: Discovery,
    machines: Machines,
    /// After this a machine that was launched can be seen.
    visible_after: Duration,
    classes: Mutex<HashMap<String, Arc<Class>>>,
    attempts: Mutex<HashMap<String, Attempts>>,
    /// Launch templates that are there.
    templates: Mutex<HashSet<String>>,
    queue: OnceCell<String>,
}

impl Ec2 {
    /// A cloud that machines of a cluster are bought from; one that `may_change` nothing only answers
    /// what it would be like.
    ///
    /// # Errors
    /// When the system's certificate authorities cannot be read.
    pub fn new(settings: Settings, access: Access, may_change: bool) -> Result<Self, CloudError> {
        let visible_after = VISIBLE_AFTER.div_f64(settings.speed);
        Ok(Self {
            client: Client::new(&settings)?,
            settings,
            access,
            may_change,
            discovery: Discovery::default(),
            machines: Machines::new(visible_after),
            visible_after,
            classes: Mutex::default(),
            attempts: Mutex::default(),
            templates: Mutex::default(),
            queue: OnceCell::new(),
        })
    }

    fn class(&self, name: &str) -> Option<Arc<Class>> {
        self.classes.lock().get(name).cloned()
    }

    /// Tags of all that is made for a class.
    fn tags(&self, class: &str, spec: &Spec) -> Vec<(String, String)> {
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

    async fn resolve_class(&self, name: &str, class: &Value) -> Resolved {
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
            resolve::profile(&self.client, &spec, &own, &tags, self.may_change),
        );
        let mut new = Class {
            subnets: found.take("SubnetsReady", "SubnetsNotFound", subnets),
            groups: found.take("SecurityGroupsReady", "SecurityGroupsNotFound", groups),
            images: found.take("AMIsReady", "AMINotFound", images),
            spec,
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

    async fn start(&self, request: &Launch) -> Result<Launched, LaunchError> {
        if let Some(machine) = self.machines.of_claim(&request.uid) {
            return Ok(Launched { machine, refused: Vec::new() });
        }
        let not_ready = |why: &str| LaunchError::ClassNotReady(why.to_owned());
        let class = self.class(&request.class).ok_or_else(|| not_ready("it was not found"))?;
        if let Some(why) = &class.problem {
            return Err(not_ready(why));
        }
        let templates = self.templates_of(request, &class);
        let mut refused: Vec<Offer> = Vec::new();
        let mut kinds: Vec<CapacityType> = request.offerings.iter().map(|o| o.2).collect();
        kinds.dedup();
        let mut tried: Vec<CapacityType> = Vec::new();
        for kind in kinds {
            if tried.contains(&kind) {
                continue;
            }
            tried.push(kind);
            let overrides: Vec<_> = request
                .offerings
                .iter()
                .filter(|o| o.2 == kind)
                .filter_map(|o| {
                    let t = class.catalogue.get(&o.0)?;
                    let image = class.images.iter().position(|i| i.suits(&t.labels))?;
                    let subnet = class.subnets.iter().find(|s| *s.zone == *o.1)?;
                    Some((templates.get(&image)?, o, subnet))
                })
                .collect();
            if overrides.is_empty() {
                continue;
            }
            let sent: Vec<Offer> = overrides.iter().map(|(_, o, _)| (*o).clone()).collect();
            let outcome = match self.send(request, &class, kind, overrides).await? {
                Sent::Found(machine) => return Ok(Launched { machine, refused }),
                Sent::Answered(outcome) => outcome,
            };
            if let Some(started) = &outcome.started {
                refused.extend(outcome.refused);
                let machine = self.machines.put(started, &request.name, &request.uid);
                self.attempts.lock().remove(&request.uid);
                return Ok(Launched { machine, refused });
            }
            self.attempts.lock().entry(request.uid.clone()).or_default().failed += 1;
            match outcome.other {
                Some((code, message)) if outcome.refused.is_empty() => {
                    return Err(LaunchError::Unsure(error("CreateFleet", &code, &message)));
                }
                // Those that it does not name were not tried for the same reason.
                _ => refused.extend(sent),
            }
        }
        self.attempts.lock().remove(&request.uid);
        if refused.is_empty() {
            Err(LaunchError::NoSuchType)
        } else {
            Err(LaunchError::NoCapacity(refused))
        }
    }

    /// A template for each image, by its place in the class's list.
    fn templates_of(&self, request: &Launch, class: &Class) -> BTreeMap<usize, Template> {
        let claim = &request.claim;
        // The kubelet may not set labels of these groups by itself; registration does.
        let own = |k: &str| {
            let group = k.split('/').next().unwrap_or_default();
            !k.contains('/') || !(group.ends_with("kubernetes.io") || group.ends_with("k8s.io"))
        };
        let labels = claim["metadata"]["labels"].as_object().into_iter().flatten();
        let labels: BTreeMap<String, String> = labels
            .filter(|(k, _)| own(k))
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect();
        let lists = ["taints", "startupTaints"].into_iter();
        let mut taints: Vec<Value> =
            lists.filter_map(|l| claim["spec"][l].as_array()).flatten().cloned().collect();
        taints.push(json!({"key": "karpenter.sh/unregistered", "effect": "NoExecute"}));
        let common = Common {
            joining: Joining {
                cluster: &self.settings.cluster,
                access: &self.access,
                spec: &class.spec,
                labels: &labels,
                taints: &taints,
            },
            groups: &class.groups,
            profile: &class.profile,
        };
        let all = class.images.iter().enumerate();
        all.map(|(i, image)| (i, Template::new(&common, image))).collect()
    }

    async fn send(
        &self,
        request: &Launch,
        class: &Class,
        kind: CapacityType,
        overrides: Vec<(&Template, &Offer, &Subnet)>,
    ) -> Result<Sent, LaunchError> {
        let tags = self.tags(&request.class, &class.spec);
        for (t, _, _) in &overrides {
            if self.templates.lock().contains(&t.name) {
                continue;
            }
            t.ensure(&self.client, &tags).await.map_err(LaunchError::Unsure)?;
            self.templates.lock().insert(t.name.clone());
        }
        let mut own: BTreeMap<String, String> = tags.into_iter().collect();
        own.entry("Name".into()).or_insert_with(|| request.name.clone());
        own.insert(POOL.into(), request.pool.clone());
        own.insert(CLAIM.into(), request.name.clone());
        own.insert(CLAIM_UID.into(), request.uid.clone());
        let tags: Vec<(String, String)> = own.into_iter().collect();
        let failed = self.attempts.lock().get(&request.uid).map_or(0, |a| a.failed);
        let fleet = Fleet {
            token: &format!("{}-{failed}", request.uid),
            capacity_type: kind,
            overrides,
            tags: &tags,
            context: class.spec.context.as_deref(),
        };
        let e = match fleet.send(&self.client).await {
            Ok(outcome) => return Ok(Sent::Answered(outcome)),
            Err(e) => e,
        };
        if e.code.starts_with("InvalidLaunchTemplate") {
            // Somebody deleted them.
            self.templates.lock().clear();
        }
        if e.code == "IdempotentParameterMismatch" {
            return self.asked_before(request, e).await;
        }
        Err(LaunchError::Unsure(e))
    }

    /// An earlier process asked with the same token, at other prices: its machine is the one. If there is
    /// none when it could be seen, that launch has failed.
    async fn asked_before(&self, request: &Launch, e: CloudError) -> Result<Sent, LaunchError> {
        let found = self.machines.find(&self.client, &request.uid).await;
        if let Some(m) = found.map_err(LaunchError::Unsure)? {
            return Ok(Sent::Found(m));
        }
        let mut attempts = self.attempts.lock();
        let a = attempts.entry(request.uid.clone()).or_default();
        let since = *a.unknown_since.get_or_insert_with(Instant::now);
        if since.elapsed() > self.visible_after {
            *a = Attempts { failed: a.failed + 1, unknown_since: None };
        }
        Err(LaunchError::Unsure(e))
    }

    async fn take_down(&self, name: &str, class: &Value) -> Result<(), CloudError> {
        self.classes.lock().remove(name);
        let Ok(spec) = Spec::read(&class["spec"]) else { return Ok(()) };
        if class.is_null() || !self.may_change {
            return Ok(());
        }
        crate::launch::delete_templates(&self.client, CLASS_TAG, name, &self.settings.cluster)
            .await?;
        self.templates.lock().clear();
        resolve::delete_profile(&self.client, &spec, &self.profile_name(name)).await
    }

    async fn wait_for_notices(&self) -> Result<Vec<Notice>, CloudError> {
        let Some(name) = &self.settings.queue else { return pending().await };
        let url = self.queue.get_or_try_init(|| queue::url(&self.client, name)).await?;
        let messages = queue::receive(&self.client, url).await?;
        let one = |(handle, body): (String, String)| {
            let event = queue::read(&body);
            if event.is_none() {
                tracing::debug!(body, "a message that is about nothing of ours");
            }
            let ids = event.iter().flat_map(|e| &e.machines);
            let provider_ids = ids.filter_map(|id| self.machines.provider_id(id)).collect();
            let (reason, message, leave, scarce) =
                event.as_ref().map_or(("", String::new(), false, false), |e| {
                    (e.reason, e.message.clone(), e.leave, e.scarce)
                });
            Notice { handle, provider_ids, reason, message, leave, scarce }
        };
        Ok(messages.into_iter().map(one).collect())
    }
}

/// How a request went.
enum Sent {
    /// A machine of an earlier request.
    Found(Arc<Machine>),
    /// The cloud's answer.
    Answered(Outcome),
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

impl Cloud for Ec2 {
    fn class_kind(&self) -> &'static NodeClassKind {
        &EC2_NODE_CLASS
    }

    fn class_finalizer(&self) -> Option<&'static str> {
        Some("karpenter.k8s.aws/termination")
    }

    fn speed(&self) -> f64 {
        self.settings.speed
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), CloudError>> {
        Box::pin(async { self.list().await.map(drop) })
    }

    fn resolve<'a>(&'a self, name: &'a str, class: &'a Value) -> BoxFuture<'a, Resolved> {
        Box::pin(self.resolve_class(name, class))
    }

    fn forget<'a>(
        &'a self,
        name: &'a str,
        class: &'a Value,
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(self.take_down(name, class))
    }

    fn stamps(&self, class: &Value) -> Vec<(&'static str, String)> {
        vec![(HASH, hash(class)), (HASH_VERSION, VERSION.to_owned())]
    }

    fn catalogue(&self, class: &str) -> Option<Arc<Catalogue>> {
        self.class(class).map(|c| c.catalogue.clone())
    }

    fn zones(&self) -> Vec<Arc<str>> {
        let classes = self.classes.lock();
        let zones = classes.values().flat_map(|c| c.catalogue.zones().iter().cloned());
        zones.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn reservations(&self) -> Vec<(CapacityReservation, usize)> {
        Vec::new()
    }

    fn launch<'a>(&'a self, request: &'a Launch) -> BoxFuture<'a, Result<Launched, LaunchError>> {
        Box::pin(self.start(request))
    }

    fn terminate<'a>(
        &'a self,
        provider_id: &'a str,
        uid: &'a str,
    ) -> BoxFuture<'a, Result<Ended, CloudError>> {
        Box::pin(self.machines.end(&self.client, &self.settings.cluster, provider_id, uid))
    }

    fn machine(&self, provider_id: &str) -> Option<Arc<Machine>> {
        self.machines.get(provider_id).map(|e| e.machine)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Arc<Machine>>, CloudError>> {
        Box::pin(self.machines.list(&self.client, &self.settings.cluster))
    }

    fn notices(&self) -> BoxFuture<'_, Result<Vec<Notice>, CloudError>> {
        Box::pin(self.wait_for_notices())
    }

    fn acknowledge(&self, handles: Vec<String>) -> BoxFuture<'_, Result<(), CloudError>> {
        Box::pin(async move {
            let Some(url) = self.queue.get() else { return Ok(()) };
            queue::delete(&self.client, url, &handles).await
        })
    }

    fn drift(&self, class: &Value, claim: &Value) -> Option<&'static str> {
        let note = |o: &Value, k: &str| o["metadata"]["annotations"][k].as_str().map(str::to_owned);
        let judged = note(claim, HASH_VERSION).is_some_and(|v| v == VERSION);
        if judged && note(claim, HASH).is_some_and(|h| h != hash(class)) {
            return Some("NodeClassDrift");
        }
        let own = self.class(class["metadata"]["name"].as_str()?)?;
        if own.problem.is_some() {
            return None;
        }
        let labels = claim["metadata"]["labels"].as_object().into_iter().flatten();
        let labels: BTreeMap<String, String> =
            labels.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect();
        let image = claim["status"]["imageID"].as_str();
        if image.is_some_and(|id| !own.images.iter().any(|i| i.id == id && i.suits(&labels))) {
            return Some("AMIDrift");
        }
        let entry = self.machines.get(claim["status"]["providerID"].as_str()?)?;
        if !entry.subnet.is_empty() && !own.subnets.iter().any(|s| s.id == entry.subnet) {
            return Some("SubnetDrift");
        }
        let wanted: BTreeSet<String> = own.groups.iter().map(|g| g.id.clone()).collect();
        entry.groups.is_some_and(|has| has != wanted).then_some("SecurityGroupDrift")
    }
}
