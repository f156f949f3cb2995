//! The machines of the cluster, as they were last heard of; and ending them. The cloud's listings lag behind
//! what it did: what was launched a moment ago is not taken for lost.

use crate::{
    client::{Client, Service},
    discovery::pages,
    launch::Started,
    wire::{Form, items, parse, tag, text},
};
use coracle_clouds::{CapacityType, CloudError, Ended, Machine};
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Tags that say whose a machine is.
pub(crate) const CLUSTER: &str = "eks:eks-cluster-name";
pub(crate) const POOL: &str = "karpenter.sh/nodepool";
pub(crate) const CLAIM: &str = "karpenter.sh/nodeclaim";
pub(crate) const CLAIM_UID: &str = "coracle.dev/nodeclaim-uid";
/// A machine may be missing from listings for this long after its launch.
pub(crate) const VISIBLE_AFTER: Duration = Duration::from_secs(60);
/// Several that wait for machines to end share a listing of this age.
const FRESH: Duration = Duration::from_secs(2);

/// A machine, and what drift is judged by.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) machine: Arc<Machine>,
    pub(crate) subnet: String,
    /// Security groups; `None` until a listing told them.
    pub(crate) groups: Option<BTreeSet<String>>,
    /// When this process launched it.
    launched: Option<Instant>,
}

/// The machines.
#[derive(Debug)]
pub(crate) struct Machines {
    visible_after: Duration,
    all: Mutex<HashMap<String, Entry>>,
    /// Ids of those that were told to end.
    ending: Mutex<HashSet<String>>,
    /// When the newest listing was asked for, and which machines were not gone then.
    listed: tokio::sync::Mutex<Option<(Instant, Arc<HashSet<String>>)>>,
}

/// The cloud's id of a machine, from `aws:///ZONE/ID`.
fn instance_id(provider_id: &str) -> &str {
    provider_id.rsplit('/').next().unwrap_or(provider_id)
}

/// What a listing says of a machine, and whether it is on its way out.
fn read(i: roxmltree::Node<'_, '_>) -> Option<(Entry, bool)> {
    let (id, zone) = (text(i, "instanceId"), text(i, "placement/availabilityZone"));
    let state = text(i, "instanceState/name");
    if id.is_empty() || state == "terminated" {
        return None;
    }
    let some = |t: &str| Some(t.to_owned()).filter(|t| !t.is_empty());
    let machine = Machine {
        provider_id: format!("aws:///{zone}/{id}"),
        name: tag(i, CLAIM).to_owned(),
        uid: tag(i, CLAIM_UID).to_owned(),
        instance_type: text(i, "instanceType").into(),
        zone: zone.into(),
        capacity_type: match text(i, "instanceLifecycle") {
            "spot" => CapacityType::Spot,
            _ => CapacityType::OnDemand,
        },
        reservation: None,
        image: some(text(i, "imageId")),
    };
    let groups = items(i, "groupSet").map(|g| text(g, "groupId").to_owned()).collect();
    let entry = Entry {
        machine: Arc::new(machine),
        subnet: text(i, "subnetId").to_owned(),
        groups: Some(groups),
        launched: None,
    };
    Some((entry, state == "shutting-down"))
}

impl Machines {
    /// No machines yet; each can be seen so long after its launch.
    pub(crate) fn new(visible_after: Duration) -> Self {
        Self {
            visible_after,
            all: Mutex::default(),
            ending: Mutex::default(),
            listed: tokio::sync::Mutex::default(),
        }
    }

    /// What is known of a machine.
    pub(crate) fn get(&self, provider_id: &str) -> Option<Entry> {
        self.all.lock().get(provider_id).cloned()
    }

    /// The machine of a claim.
    pub(crate) fn of_claim(&self, uid: &str) -> Option<Arc<Machine>> {
        let all = self.all.lock();
        all.values().find(|e| !uid.is_empty() && e.machine.uid == uid).map(|e| e.machine.clone())
    }

    /// The node's name for the cloud's id of a machine.
    pub(crate) fn provider_id(&self, id: &str) -> Option<String> {
        self.all.lock().keys().find(|p| instance_id(p) == id).cloned()
    }

    /// Notes a machine that was launched now.
    pub(crate) fn put(&self, s: &Started, name: &str, uid: &str) -> Arc<Machine> {
        let machine = Arc::new(Machine {
            provider_id: format!("aws:///{}/{}", s.zone, s.id),
            name: name.to_owned(),
            uid: uid.to_owned(),
            instance_type: s.instance_type.clone(),
            zone: s.zone.clone(),
            capacity_type: s.capacity_type,
            reservation: None,
            image: s.image.clone(),
        });
        let entry = Entry {
            machine: machine.clone(),
            subnet: s.subnet.clone(),
            groups: None,
            launched: Some(Instant::now()),
        };
        self.all.lock().insert(machine.provider_id.clone(), entry);
        machine
    }

    /// Asks for all machines of the cluster.
    pub(crate) async fn list(
        &self,
        client: &Client,
        cluster: &str,
    ) -> Result<Vec<Arc<Machine>>, CloudError> {
        let mut listed = self.listed.lock().await;
        *listed = Some(self.ask(client, cluster).await?);
        Ok(self.all.lock().values().map(|e| e.machine.clone()).collect())
    }

    async fn ask(
        &self,
        client: &Client,
        cluster: &str,
    ) -> Result<(Instant, Arc<HashSet<String>>), CloudError> {
        let began = Instant::now();
        let mut form = Form::default();
        form.put("MaxResults", 1000);
        form.filter(1, &format!("tag:{CLUSTER}"), &[cluster]);
        form.filter(2, "tag-key", &[POOL]);
        let states = ["pending", "running", "stopping", "stopped", "shutting-down"];
        form.filter(3, "instance-state-name", &states);
        let (mut found, mut not_gone) = (HashMap::new(), HashSet::new());
        pages(client, "DescribeInstances", &form, |page| {
            for i in items(page, "reservationSet").flat_map(|r| items(r, "instancesSet")) {
                let Some((entry, going)) = read(i) else { continue };
                not_gone.insert(instance_id(&entry.machine.provider_id).to_owned());
                if !going {
                    found.insert(entry.machine.provider_id.clone(), entry);
                }
            }
        })
        .await?;
        let mut all = self.all.lock();
        // What was launched a moment ago, or while the answer was on its way, may be missing in it.
        let young = |e: &Entry| e.launched.is_some_and(|t| t + self.visible_after > began);
        all.retain(|id, e| young(e) || found.contains_key(id));
        for (id, mut entry) in found {
            entry.launched = all.get(&id).and_then(|e| e.launched);
            all.insert(id, entry);
        }
        Ok((began, Arc::new(not_gone)))
    }

    /// Asks for the machine of a claim by its tag.
    pub(crate) async fn find(
        &self,
        client: &Client,
        uid: &str,
    ) -> Result<Option<Arc<Machine>>, CloudError> {
        let mut form = Form::default();
        form.filter(1, &format!("tag:{CLAIM_UID}"), &[uid]);
        form.filter(2, "instance-state-name", &["pending", "running", "stopping", "stopped"]);
        let mut found = None;
        pages(client, "DescribeInstances", &form, |page| {
            let all = items(page, "reservationSet").flat_map(|r| items(r, "instancesSet"));
            found = all.filter_map(read).map(|(e, _)| e).next().or(found.take());
        })
        .await?;
        if let Some(e) = &found {
            self.all.lock().insert(e.machine.provider_id.clone(), e.clone());
        }
        Ok(found.map(|e| e.machine))
    }

    /// Ends the machine of a claim, whether its id is known or not.
    pub(crate) async fn end(
        &self,
        client: &Client,
        cluster: &str,
        provider_id: &str,
        uid: &str,
    ) -> Result<Ended, CloudError> {
        let mut provider_id = provider_id.to_owned();
        if provider_id.is_empty() {
            match self.find(client, uid).await? {
                Some(m) => provider_id.clone_from(&m.provider_id),
                None => return Ok(Ended::Gone),
            }
        }
        let id = instance_id(&provider_id);
        let told = self.ending.lock().contains(id);
        let ended = match told {
            true => self.is_gone(client, cluster, id).await?,
            false => self.tell(client, &provider_id, id).await?,
        };
        if ended == Ended::Gone {
            self.ending.lock().remove(id);
            self.all.lock().remove(&provider_id);
        }
        Ok(ended)
    }

    async fn tell(
        &self,
        client: &Client,
        provider_id: &str,
        id: &str,
    ) -> Result<Ended, CloudError> {
        let mut form = Form::default();
        form.put("InstanceId.1", id);
        let body = match client.query(Service::Ec2, "TerminateInstances", &form.0).await {
            Ok(body) => body,
            Err(e) if e.code.starts_with("InvalidInstanceID.NotFound") => {
                let launched = self.get(provider_id).and_then(|e| e.launched);
                // A machine that was launched a moment ago is only not to be seen yet.
                let young = launched.is_some_and(|t| t.elapsed() < self.visible_after);
                return Ok(if young { Ended::Going } else { Ended::Gone });
            }
            Err(e) => return Err(e),
        };
        let xml = parse("TerminateInstances", &body)?;
        let states =
            items(xml.root_element(), "instancesSet").map(|i| text(i, "currentState/name"));
        if states.into_iter().all(|s| s == "terminated") {
            return Ok(Ended::Gone);
        }
        self.ending.lock().insert(id.to_owned());
        Ok(Ended::Going)
    }

    async fn is_gone(&self, client: &Client, cluster: &str, id: &str) -> Result<Ended, CloudError> {
        let mut listed = self.listed.lock().await;
        let fresh = listed.as_ref().filter(|(at, _)| at.elapsed() < FRESH).map(|(_, l)| l.clone());
        let not_gone = match fresh {
            Some(l) => l,
            None => {
                let new = self.ask(client, cluster).await?;
                let not_gone = new.1.clone();
                *listed = Some(new);
                not_gone
            }
        };
        Ok(if not_gone.contains(id) { Ended::Going } else { Ended::Gone })
    }
}
