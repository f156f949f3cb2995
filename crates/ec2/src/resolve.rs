//! What a class's terms select: subnets, security groups and images.

use crate::{
    class::{Spec, Term},
    client::{Client, Service, error},
    discovery::pages,
    wire::{Form, items, number, text},
};
use coracle_clouds::CloudError;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Keys that images differ by.
const ARCH: &str = "kubernetes.io/arch";
const GPUS: &str = "karpenter.k8s.aws/instance-gpu-count";
const ACCELERATORS: &str = "karpenter.k8s.aws/instance-accelerator-count";

/// A subnet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Subnet {
    pub(crate) id: String,
    pub(crate) zone: String,
    pub(crate) zone_id: String,
    pub(crate) free: u64,
}

/// A security group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// An image, and which machines it is for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created: String,
    pub(crate) deprecated: bool,
    /// Labels that machines have to have (true) or must not have (false), or a value of one.
    pub(crate) needs: Vec<(&'static str, Need)>,
}

/// What an image asks of a label.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Need {
    /// This value.
    Is(&'static str),
    /// Any value.
    Exists,
    /// No value.
    Absent,
}

impl Image {
    /// Whether machines with these labels can start from it.
    pub(crate) fn suits(&self, labels: &BTreeMap<String, String>) -> bool {
        self.needs.iter().all(|(key, need)| match (need, labels.get(*key)) {
            (Need::Is(v), Some(has)) => has == v,
            (Need::Exists, has) => has.is_some(),
            (Need::Absent, has) => has.is_none(),
            (Need::Is(_), None) => false,
        })
    }

    /// As statuses have it.
    pub(crate) fn status(&self) -> Value {
        let one = |(key, need): &(&str, Need)| match need {
            Need::Is(v) => json!({"key": key, "operator": "In", "values": [v]}),
            Need::Exists => json!({"key": key, "operator": "Exists"}),
            Need::Absent => json!({"key": key, "operator": "DoesNotExist"}),
        };
        let needs: Vec<Value> = self.needs.iter().map(one).collect();
        let mut all = json!({"id": self.id, "name": self.name, "requirements": needs});
        if self.deprecated {
            all["deprecated"] = json!(true);
        }
        all
    }
}

/// Filters of a term: tags, where `*` means any value.
fn tag_filters(form: &mut Form, term: &Term, mut n: usize) -> usize {
    for (k, v) in &term.tags {
        n += 1;
        match v.as_str() {
            "*" => form.filter(n, "tag-key", &[k]),
            v => form.filter(n, &format!("tag:{k}"), &[v]),
        }
    }
    n
}

/// Subnets, those with the most free addresses first.
pub(crate) async fn subnets(client: &Client, terms: &[Term]) -> Result<Vec<Subnet>, CloudError> {
    let mut all: BTreeMap<String, Subnet> = BTreeMap::new();
    for term in terms {
        let mut form = Form::default();
        let n = tag_filters(&mut form, term, 0);
        if let Some(id) = &term.id {
            form.filter(n + 1, "subnet-id", &[id]);
        }
        pages(client, "DescribeSubnets", &form, |page| {
            for s in items(page, "subnetSet") {
                let subnet = Subnet {
                    id: text(s, "subnetId").to_owned(),
                    zone: text(s, "availabilityZone").to_owned(),
                    zone_id: text(s, "availabilityZoneId").to_owned(),
                    free: number(s, "availableIpAddressCount") as u64,
                };
                all.insert(subnet.id.clone(), subnet);
            }
        })
        .await?;
    }
    let mut all: Vec<Subnet> = all.into_values().collect();
    all.sort_by(|a, b| b.free.cmp(&a.free).then_with(|| a.id.cmp(&b.id)));
    Ok(all)
}

/// Security groups, by id.
pub(crate) async fn groups(client: &Client, terms: &[Term]) -> Result<Vec<Group>, CloudError> {
    let mut all: BTreeSet<Group> = BTreeSet::new();
    for term in terms {
        let mut form = Form::default();
        let mut n = tag_filters(&mut form, term, 0);
        for (name, value) in [("group-id", &term.id), ("group-name", &term.name)] {
            if let Some(v) = value {
                n += 1;
                form.filter(n, name, &[v]);
            }
        }
        pages(client, "DescribeSecurityGroups", &form, |page| {
            all.extend(items(page, "securityGroupInfo").map(|g| Group {
                id: text(g, "groupId").to_owned(),
                name: text(g, "groupName").to_owned(),
            }));
        })
        .await?;
    }
    Ok(all.into_iter().collect())
}

/// Images, in the order in which they are tried: of one term the newest first.
pub(crate) async fn images(
    client: &Client,
    spec: &Spec,
    minor: &str,
) -> Result<Vec<Image>, CloudError> {
    let mut all: Vec<Image> = Vec::new();
    for term in &spec.ami_selector_terms {
        let found = match (&term.alias, &term.ssm_parameter) {
            (Some(alias), _) => by_alias(client, alias, minor).await?,
            (None, Some(name)) => {
                let id = parameter(client, name).await?.ok_or_else(|| {
                    error("GetParameter", "ParameterNotFound", &format!("{name} does not exist"))
                })?;
                describe(client, &Term { id: Some(id), ..Term::default() }).await?
            }
            (None, None) => describe(client, term).await?,
        };
        all.extend(found);
    }
    // Of images for the same machines the first is used.
    let mut seen: Vec<Vec<(&'static str, Need)>> = Vec::new();
    all.retain(|i| {
        !seen.contains(&i.needs) && {
            seen.push(i.needs.clone());
            true
        }
    });
    Ok(all)
}

/// The images of a family and version such as `al2023@latest`, of all architectures and devices.
async fn by_alias(client: &Client, alias: &str, minor: &str) -> Result<Vec<Image>, CloudError> {
    let mut all = Vec::new();
    for (name, needs) in parameters(alias, minor) {
        let Some(id) = parameter(client, &name).await? else { continue };
        let term = Term { id: Some(id), ..Term::default() };
        for image in describe(client, &term).await? {
            all.push(Image { needs: needs.clone(), ..image });
        }
    }
    Ok(all)
}

/// The public parameters that have the ids of a family's images, with what each is for.
fn parameters(alias: &str, minor: &str) -> Vec<(String, Vec<(&'static str, Need)>)> {
    let (family, version) = alias.split_once('@').unwrap_or((alias, "latest"));
    let eks = format!("/aws/service/eks/optimized-ami/{minor}");
    let mut all = Vec::new();
    let plain = || vec![(GPUS, Need::Absent), (ACCELERATORS, Need::Absent)];
    for (arch, word) in [("amd64", "x86_64"), ("arm64", "arm64")] {
        let mut put = |name: String, mut needs: Vec<(&'static str, Need)>| {
            needs.insert(0, (ARCH, Need::Is(arch)));
            all.push((name, needs));
        };
        let gpu = || vec![(GPUS, Need::Exists)];
        let neuron = || vec![(ACCELERATORS, Need::Exists)];
        match family {
            "al2023" => {
                let of = |variant: &str| match version {
                    "latest" => {
                        format!("{eks}/amazon-linux-2023/{word}/{variant}/recommended/image_id")
                    }
                    v => format!(
                        "{eks}/amazon-linux-2023/{word}/{variant}/amazon-eks-node-al2023-{word}-{variant}-{minor}-{v}/image_id"
                    ),
                };
                put(of("standard"), plain());
                put(of("nvidia"), gpu());
                if arch == "amd64" {
                    put(of("neuron"), neuron());
                }
            }
            "bottlerocket" => {
                let v = version.trim_start_matches('v');
                let of = |variant: &str| {
                    format!(
                        "/aws/service/bottlerocket/aws-k8s-{minor}{variant}/{word}/{v}/image_id"
                    )
                };
                put(of("-nvidia"), gpu());
                put(of(""), vec![(GPUS, Need::Absent)]);
            }
            "al2" => {
                let of = |suffix: &str| match version {
                    "latest" => format!("{eks}/amazon-linux-2{suffix}/recommended/image_id"),
                    v => format!(
                        "{eks}/amazon-linux-2{suffix}/amazon-eks{suffix}-node-{minor}-{v}/image_id"
                    ),
                };
                if arch == "arm64" {
                    put(of("-arm64"), plain());
                } else {
                    put(of(""), plain());
                    put(of("-gpu"), gpu());
                    put(of("-gpu"), neuron());
                }
            }
            _ => {}
        }
    }
    all
}

async fn parameter(client: &Client, name: &str) -> Result<Option<String>, CloudError> {
    match client.json(Service::Ssm, "GetParameter", &json!({"Name": name})).await {
        Ok(v) => Ok(v["Parameter"]["Value"].as_str().map(str::to_owned)),
        Err(e) if e.code == "ParameterNotFound" => Ok(None),
        Err(e) => Err(e),
    }
}

async fn describe(client: &Client, term: &Term) -> Result<Vec<Image>, CloudError> {
    let mut form = Form::default();
    let mut n = tag_filters(&mut form, term, 0);
    for (name, value) in [("image-id", &term.id), ("name", &term.name)] {
        if let Some(v) = value {
            n += 1;
            form.filter(n, name, &[v]);
        }
    }
    match (&term.owner, &term.id, &term.name) {
        (Some(owner), _, _) => form.put("Owner.1", owner),
        // A name that anybody may give is no selection.
        (None, None, Some(_)) => {
            form.put("Owner.1", "self");
            form.put("Owner.2", "amazon");
        }
        _ => {}
    }
    let mut all: Vec<Image> = Vec::new();
    pages(client, "DescribeImages", &form, |page| {
        for i in items(page, "imagesSet") {
            let arch = if text(i, "architecture") == "arm64" { "arm64" } else { "amd64" };
            all.push(Image {
                id: text(i, "imageId").to_owned(),
                name: text(i, "name").to_owned(),
                created: text(i, "creationDate").to_owned(),
                deprecated: !text(i, "deprecationTime").is_empty()
                    && text(i, "deprecationTime")
                        < coracle_meta::time::rfc3339(jiff::Timestamp::now()).as_str(),
                needs: vec![(ARCH, Need::Is(arch))],
            });
        }
    })
    .await?;
    all.sort_by(|a, b| {
        (a.deprecated, &b.created, &a.name).cmp(&(b.deprecated, &a.created, &b.name))
    });
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_name_the_parameters_that_the_cloud_documents() {
        let names = |alias: &str| -> Vec<String> {
            parameters(alias, "1.33").into_iter().map(|(n, _)| n).collect()
        };
        let al2023 = names("al2023@latest");
        assert_eq!(
            al2023[0],
            "/aws/service/eks/optimized-ami/1.33/amazon-linux-2023/x86_64/standard/recommended/image_id"
        );
        assert_eq!(al2023.len(), 5);
        assert!(
            names("bottlerocket@v1.20.3").contains(
                &"/aws/service/bottlerocket/aws-k8s-1.33/arm64/1.20.3/image_id".to_owned()
            )
        );
        assert!(
            names("al2@latest").contains(
                &"/aws/service/eks/optimized-ami/1.33/amazon-linux-2-gpu/recommended/image_id"
                    .to_owned()
            )
        );
        assert!(names("beos@latest").is_empty());
    }

    #[test]
    fn images_suit_machines_by_architecture_and_device() {
        let image = |needs| Image {
            id: "ami-1".into(),
            name: String::new(),
            created: String::new(),
            deprecated: false,
            needs,
        };
        let labels = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
            all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let plain = image(vec![(ARCH, Need::Is("amd64")), (GPUS, Need::Absent)]);
        assert!(plain.suits(&labels(&[(ARCH, "amd64")])));
        assert!(!plain.suits(&labels(&[(ARCH, "arm64")])));
        assert!(!plain.suits(&labels(&[(ARCH, "amd64"), (GPUS, "1")])));
        let gpu = image(vec![(ARCH, Need::Is("amd64")), (GPUS, Need::Exists)]);
        assert!(gpu.suits(&labels(&[(ARCH, "amd64"), (GPUS, "1")])));
        assert_eq!(gpu.status()["requirements"][1]["operator"], "Exists");
    }
}
