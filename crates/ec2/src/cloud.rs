//! The cloud as the provisioner sees it.

use crate::{
    Access, Settings,
    class::{HASH, HASH_VERSION, VERSION, hash},
    client::Client,
    discovery::Discovery,
    machines::{Machines, VISIBLE_AFTER},
    queue,
    resolve::Image,
    resolved::Class,
    start::Attempts,
};
use coracle_clouds::{
    CapacityReservation, Catalogue, Claimed, Cloud, CloudError, EC2_NODE_CLASS, Ended, Launch,
    LaunchError, Launched, Machine, NodeClassKind, Notice, Resolved,
};
use futures::future::{BoxFuture, pending};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::OnceCell;

/// The EC2 cloud.
#[derive(Debug)]
pub struct Ec2 {
    pub(crate) settings: Settings,
    pub(crate) access: Access,
    /// Whether what is missing may be made.
    pub(crate) may_change: bool,
    pub(crate) client: Client,
    pub(crate) discovery: Discovery,
    pub(crate) machines: Machines,
    /// After this a machine that was launched can be seen.
    pub(crate) visible_after: Duration,
    pub(crate) classes: Mutex<HashMap<String, Arc<Class>>>,
    pub(crate) attempts: Mutex<HashMap<String, Attempts>>,
    /// Launch templates that are there.
    pub(crate) templates: Mutex<HashSet<String>>,
    pub(crate) queue: OnceCell<String>,
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

    pub(crate) fn class(&self, name: &str) -> Option<Arc<Class>> {
        self.classes.lock().get(name).cloned()
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

    fn drift(&self, class: &str, claim: Claimed<'_>) -> Option<&'static str> {
        let own = self.class(class).filter(|c| c.problem.is_none())?;
        let judged = claim.annotations.get(HASH_VERSION).is_some_and(|v| v == VERSION);
        if judged && claim.annotations.get(HASH).is_some_and(|h| *h != own.hash) {
            return Some("NodeClassDrift");
        }
        let suits = |i: &Image| Some(&*i.id) == claim.image && i.suits(claim.labels);
        if claim.image.is_some() && !own.images.iter().any(suits) {
            return Some("AMIDrift");
        }
        let entry = self.machines.get(claim.provider_id)?;
        if !entry.subnet.is_empty() && !own.subnets.iter().any(|s| s.id == entry.subnet) {
            return Some("SubnetDrift");
        }
        let wanted: BTreeSet<String> = own.groups.iter().map(|g| g.id.clone()).collect();
        entry.groups.is_some_and(|has| has != wanted).then_some("SecurityGroupDrift")
    }
}
