//! Launching: a launch template an image, and one request (CreateFleet, type instant) with the offerings in
//! the order of preference. Its token is the claim's: however often it is sent, one machine comes of it.

use crate::{
    class::Spec,
    client::{Client, Service, error, hex},
    discovery::pages,
    resolve::{Group, Image, Subnet},
    userdata::{Joining, encoded},
    wire::{Form, child, items, parse, text},
};
use coracle_clouds::{CapacityType, CloudError, Offer};
use std::{collections::BTreeMap, sync::Arc};

/// Most overrides that a request may have.
const OVERRIDES: usize = 300;
/// Codes of the cloud that mean: this offering is not to be had now.
const REFUSED: [&str; 8] = [
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "VcpuLimitExceeded",
    "UnfulfillableCapacity",
    "Unsupported",
    "InsufficientFreeAddressesInSubnet",
    "InsufficientCapacity",
    "ReservationCapacityExceeded",
];

/// A launch template: its name says what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    pub(crate) name: String,
    pub(crate) image: String,
    form: Form,
}

/// What all templates of a launch have in common.
pub(crate) struct Common<'a> {
    pub(crate) joining: Joining<'a>,
    pub(crate) groups: &'a [Group],
    pub(crate) profile: &'a str,
}

impl Template {
    /// The template of an image.
    pub(crate) fn new(c: &Common<'_>, image: &Image) -> Self {
        let spec = c.joining.spec;
        let mut form = Form::default();
        let p = "LaunchTemplateData";
        form.put(format!("{p}.ImageId"), &image.id);
        form.put(format!("{p}.IamInstanceProfile.Name"), c.profile);
        form.put(format!("{p}.UserData"), encoded(&c.joining));
        form.put_some(format!("{p}.Monitoring.Enabled"), spec.detailed_monitoring);
        let m = &spec.metadata_options;
        let prefix = format!("{p}.MetadataOptions");
        form.put(format!("{prefix}.HttpEndpoint"), &m.http_endpoint);
        form.put(format!("{prefix}.HttpProtocolIpv6"), &m.http_protocol_ipv6);
        form.put(format!("{prefix}.HttpPutResponseHopLimit"), m.http_put_response_hop_limit);
        form.put(format!("{prefix}.HttpTokens"), &m.http_tokens);
        let groups = c.groups.iter().enumerate();
        match spec.associate_public_ip_address {
            Some(public) => {
                let n = format!("{p}.NetworkInterface.1");
                form.put(format!("{n}.DeviceIndex"), 0);
                form.put(format!("{n}.AssociatePublicIpAddress"), public);
                groups.for_each(|(i, g)| form.put(format!("{n}.SecurityGroupId.{}", i + 1), &g.id));
            }
            None => {
                groups.for_each(|(i, g)| form.put(format!("{p}.SecurityGroupId.{}", i + 1), &g.id));
            }
        }
        disks(&mut form, p, spec);
        let digest =
            ring::digest::digest(&ring::digest::SHA256, format!("{:?}", form.0).as_bytes());
        let name = format!("karpenter.k8s.aws/{}", &hex(digest.as_ref())[..20]);
        Self { name, image: image.id.clone(), form }
    }

    /// Makes sure that it exists.
    pub(crate) async fn ensure(
        &self,
        client: &Client,
        tags: &[(String, String)],
    ) -> Result<(), CloudError> {
        let mut form = self.form.clone();
        form.put("LaunchTemplateName", &self.name);
        form.put("ClientToken", self.name.replace('/', "-"));
        put_tags(&mut form, "TagSpecification.1", "launch-template", tags);
        match client.query(Service::Ec2, "CreateLaunchTemplate", &form.0).await {
            Err(e) if !e.code.starts_with("InvalidLaunchTemplateName.AlreadyExists") => Err(e),
            _ => Ok(()),
        }
    }
}

fn disks(form: &mut Form, p: &str, spec: &Spec) {
    for (i, d) in spec.block_device_mappings.iter().enumerate() {
        let n = format!("{p}.BlockDeviceMapping.{}", i + 1);
        form.put_some(format!("{n}.DeviceName"), d.device_name.as_ref());
        form.put_some(format!("{n}.Ebs.VolumeSize"), d.ebs.gib());
        form.put_some(format!("{n}.Ebs.VolumeType"), d.ebs.volume_type.as_ref());
        form.put_some(format!("{n}.Ebs.Iops"), d.ebs.iops);
        form.put_some(format!("{n}.Ebs.Throughput"), d.ebs.throughput);
        form.put_some(format!("{n}.Ebs.Encrypted"), d.ebs.encrypted);
        form.put_some(format!("{n}.Ebs.KmsKeyId"), d.ebs.kms_key_id.as_ref());
        form.put_some(format!("{n}.Ebs.SnapshotId"), d.ebs.snapshot_id.as_ref());
        form.put(
            format!("{n}.Ebs.DeleteOnTermination"),
            d.ebs.delete_on_termination.unwrap_or(true),
        );
    }
}

pub(crate) fn put_tags(form: &mut Form, prefix: &str, kind: &str, tags: &[(String, String)]) {
    form.put(format!("{prefix}.ResourceType"), kind);
    for (i, (k, v)) in tags.iter().enumerate() {
        form.put(format!("{prefix}.Tag.{}.Key", i + 1), k);
        form.put(format!("{prefix}.Tag.{}.Value", i + 1), v);
    }
}

/// Takes down the templates of a class.
pub(crate) async fn delete_templates(
    client: &Client,
    tag: &str,
    class: &str,
    cluster: &str,
) -> Result<(), CloudError> {
    let mut form = Form::default();
    form.filter(1, &format!("tag:{tag}"), &[class]);
    form.filter(2, &format!("tag:{}", crate::machines::CLUSTER), &[cluster]);
    let mut names: Vec<String> = Vec::new();
    pages(client, "DescribeLaunchTemplates", &form, |page| {
        names.extend(
            items(page, "launchTemplates").map(|t| text(t, "launchTemplateName").to_owned()),
        );
    })
    .await?;
    for name in names {
        let mut form = Form::default();
        form.put("LaunchTemplateName", name);
        match client.query(Service::Ec2, "DeleteLaunchTemplate", &form.0).await {
            Err(e) if !e.code.starts_with("InvalidLaunchTemplate") => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// A machine as the answer to a launch has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Started {
    pub(crate) id: String,
    pub(crate) instance_type: Arc<str>,
    pub(crate) zone: Arc<str>,
    pub(crate) capacity_type: CapacityType,
    pub(crate) image: Option<String>,
    pub(crate) subnet: String,
}

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) started: Option<Started>,
    pub(crate) refused: Vec<Offer>,
    /// What else went wrong, in the cloud's words.
    pub(crate) other: Option<(String, String)>,
}

/// A request for one machine of one capacity type.
pub(crate) struct Fleet<'a> {
    pub(crate) token: &'a str,
    pub(crate) capacity_type: CapacityType,
    /// Offerings by what they start from, the best first.
    pub(crate) overrides: Vec<(&'a Template, &'a Offer, &'a Subnet)>,
    pub(crate) tags: &'a [(String, String)],
    pub(crate) context: Option<&'a str>,
}

impl Fleet<'_> {
    fn form(&self) -> Form {
        let mut form = Form::default();
        let spot = self.capacity_type == CapacityType::Spot;
        form.put("Type", "instant");
        form.put("ClientToken", self.token);
        form.put_some("Context", self.context);
        form.put("TargetCapacitySpecification.TotalTargetCapacity", 1);
        let kind = if spot { "spot" } else { "on-demand" };
        form.put("TargetCapacitySpecification.DefaultTargetCapacityType", kind);
        if spot {
            form.put("SpotOptions.AllocationStrategy", "price-capacity-optimized");
        } else {
            // Our prices know discounts that the cloud's own order does not.
            form.put("OnDemandOptions.AllocationStrategy", "prioritized");
        }
        put_tags(&mut form, "TagSpecification.1", "instance", self.tags);
        put_tags(&mut form, "TagSpecification.2", "fleet", self.tags);
        put_tags(&mut form, "TagSpecification.3", "volume", self.tags);
        let mut by_template: BTreeMap<&str, Vec<(usize, &Offer, &Subnet)>> = BTreeMap::new();
        for (rank, (t, offer, subnet)) in self.overrides.iter().take(OVERRIDES).enumerate() {
            by_template.entry(&t.name).or_default().push((rank, offer, subnet));
        }
        for (i, (name, all)) in by_template.iter().enumerate() {
            let n = format!("LaunchTemplateConfigs.{}", i + 1);
            form.put(format!("{n}.LaunchTemplateSpecification.LaunchTemplateName"), name);
            form.put(format!("{n}.LaunchTemplateSpecification.Version"), "$Latest");
            for (j, (rank, (t, zone, _), subnet)) in all.iter().enumerate() {
                let o = format!("{n}.Overrides.{}", j + 1);
                form.put(format!("{o}.InstanceType"), t);
                form.put(format!("{o}.SubnetId"), &subnet.id);
                form.put(format!("{o}.AvailabilityZone"), zone);
                if !spot {
                    form.put(format!("{o}.Priority"), rank);
                }
            }
        }
        form
    }

    /// Sends it.
    pub(crate) async fn send(&self, client: &Client) -> Result<Outcome, CloudError> {
        let body = client.query(Service::Ec2, "CreateFleet", &self.form().0).await?;
        self.read(&body)
    }

    fn read(&self, body: &str) -> Result<Outcome, CloudError> {
        let xml = parse("CreateFleet", body)?;
        let root = xml.root_element();
        let mut outcome = Outcome::default();
        let place = |n: roxmltree::Node<'_, '_>| {
            let o = child(n, "launchTemplateAndOverrides").and_then(|l| child(l, "overrides"));
            let (subnet, zone) =
                o.map_or(("", ""), |o| (text(o, "subnetId"), text(o, "availabilityZone")));
            let known = self.overrides.iter().find(|(_, _, s)| s.id == subnet);
            let zone = if zone.is_empty() { known.map_or("", |(_, _, s)| &s.zone) } else { zone };
            (
                o.map_or("", |o| text(o, "instanceType")).to_owned(),
                zone.to_owned(),
                subnet.to_owned(),
            )
        };
        for i in items(root, "fleetInstanceSet") {
            let ids = items(i, "instanceIds").filter_map(|n| n.text());
            let Some(id) = ids.map(str::trim).find(|id| !id.is_empty()) else { continue };
            let (of_override, zone, subnet) = place(i);
            let own = text(i, "instanceType");
            let instance_type: Arc<str> = if own.is_empty() { &of_override } else { own }.into();
            let template = child(i, "launchTemplateAndOverrides")
                .and_then(|l| child(l, "launchTemplateSpecification"))
                .map_or("", |s| text(s, "launchTemplateName"));
            let image = self.overrides.iter().find(|(t, _, _)| t.name == template);
            let spot = match text(i, "lifecycle") {
                "" => self.capacity_type,
                "spot" => CapacityType::Spot,
                _ => CapacityType::OnDemand,
            };
            outcome.started = Some(Started {
                id: id.to_owned(),
                instance_type,
                zone: zone.into(),
                capacity_type: spot,
                image: image.map(|(t, _, _)| t.image.clone()),
                subnet,
            });
        }
        for e in items(root, "errorSet") {
            let (t, zone, _) = place(e);
            let code = text(e, "errorCode");
            if REFUSED.contains(&code) && !t.is_empty() {
                outcome.refused.push((t.into(), zone.into(), self.capacity_type));
            } else {
                outcome.other = Some((code.to_owned(), text(e, "errorMessage").to_owned()));
            }
        }
        if outcome == Outcome::default() {
            return Err(error("CreateFleet", "BadAnswer", "neither a machine nor an error"));
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_have_the_order_and_answers_are_read() {
        let template = |name: &str| Template {
            name: name.into(),
            image: format!("ami-{name}"),
            form: Form::default(),
        };
        let (x86, arm) = (template("x"), template("a"));
        let subnet = Subnet {
            id: "subnet-1".into(),
            zone: "us-east-1a".into(),
            zone_id: String::new(),
            free: 1,
        };
        let offer = |t: &str| -> Offer { (t.into(), "us-east-1a".into(), CapacityType::OnDemand) };
        let (cheap, dear) = (offer("c6g.large"), offer("c6a.large"));
        let fleet = Fleet {
            token: "uid",
            capacity_type: CapacityType::OnDemand,
            overrides: vec![(&arm, &cheap, &subnet), (&x86, &dear, &subnet)],
            tags: &[("a".into(), "b".into())],
            context: None,
        };
        let form: BTreeMap<String, String> = fleet.form().0.into_iter().collect();
        assert_eq!(form["LaunchTemplateConfigs.2.Overrides.1.InstanceType"], "c6a.large");
        assert_eq!(form["LaunchTemplateConfigs.2.Overrides.1.Priority"], "1");
        assert_eq!(form["ClientToken"], "uid");
        let body = "<r><fleetId>f</fleetId>
            <errorSet><item><launchTemplateAndOverrides><overrides><instanceType>c6g.large</instanceType><subnetId>subnet-1</subnetId></overrides></launchTemplateAndOverrides><lifecycle>on-demand</lifecycle><errorCode>InsufficientInstanceCapacity</errorCode><errorMessage>no</errorMessage></item></errorSet>
            <fleetInstanceSet><item><launchTemplateAndOverrides><launchTemplateSpecification><launchTemplateName>x</launchTemplateName></launchTemplateSpecification><overrides><subnetId>subnet-1</subnetId></overrides></launchTemplateAndOverrides><lifecycle>on-demand</lifecycle><instanceIds><item>i-1</item></instanceIds><instanceType>c6a.large</instanceType></item></fleetInstanceSet></r>";
        let outcome = fleet.read(body).unwrap();
        assert_eq!(outcome.refused.first(), Some(&cheap));
        let started = outcome.started.unwrap();
        assert_eq!((&*started.instance_type, &*started.zone), ("c6a.large", "us-east-1a"));
        assert_eq!(started.image.as_deref(), Some("ami-x"));
        assert!(fleet.read("<r/>").is_err() && fleet.read("nonsense").is_err());
    }
}
