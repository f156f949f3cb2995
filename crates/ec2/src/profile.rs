//! The instance profile of a class's machines.

use crate::{
    class::Spec,
    client::{Client, Service},
    wire::{Form, parse},
};
use coracle_clouds::CloudError;

/// The instance profile of a class: the one that it names, or one that is made for its role.
pub(crate) async fn find(
    client: &Client,
    spec: &Spec,
    own_name: &str,
    tags: &[(String, String)],
    may_create: bool,
) -> Result<String, CloudError> {
    let Some(role) = &spec.role else {
        return Ok(spec.instance_profile.clone().unwrap_or_default());
    };
    let mut form = Form::default();
    form.put("InstanceProfileName", own_name);
    let found = client.query(Service::Iam, "GetInstanceProfile", &form.0).await;
    let roles = match found {
        Ok(body) => {
            let xml = parse("GetInstanceProfile", &body)?;
            let names = xml.descendants().filter(|n| n.tag_name().name() == "RoleName");
            names.filter_map(|n| n.text()).map(str::to_owned).collect()
        }
        Err(e) if e.code == "NoSuchEntity" && may_create => {
            let mut form = form.clone();
            for (i, (k, v)) in tags.iter().enumerate() {
                form.put(format!("Tags.member.{}.Key", i + 1), k);
                form.put(format!("Tags.member.{}.Value", i + 1), v);
            }
            match client.query(Service::Iam, "CreateInstanceProfile", &form.0).await {
                Err(e) if e.code != "EntityAlreadyExists" => return Err(e),
                _ => Vec::new(),
            }
        }
        Err(e) => return Err(e),
    };
    if roles.iter().any(|r: &String| r == role) || !may_create {
        return Ok(own_name.to_owned());
    }
    for old in roles {
        let mut form = form.clone();
        form.put("RoleName", old);
        client.query(Service::Iam, "RemoveRoleFromInstanceProfile", &form.0).await?;
    }
    let mut form = form.clone();
    form.put("RoleName", role);
    match client.query(Service::Iam, "AddRoleToInstanceProfile", &form.0).await {
        Err(e) if e.code != "LimitExceeded" => Err(e),
        _ => Ok(own_name.to_owned()),
    }
}

/// Takes down a profile that was made here.
pub(crate) async fn delete(client: &Client, spec: &Spec, own_name: &str) -> Result<(), CloudError> {
    let Some(role) = &spec.role else { return Ok(()) };
    let mut form = Form::default();
    form.put("InstanceProfileName", own_name);
    let mut with_role = form.clone();
    with_role.put("RoleName", role);
    for (action, form) in
        [("RemoveRoleFromInstanceProfile", with_role), ("DeleteInstanceProfile", form)]
    {
        match client.query(Service::Iam, action, &form.0).await {
            Err(e) if e.code != "NoSuchEntity" => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
