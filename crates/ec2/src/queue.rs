//! Notices of interruptions: events of the cloud's bus, through a queue (SQS).

use crate::client::{Client, Service};
use coracle_clouds::CloudError;
use serde_json::{Value, json};

/// An event about machines.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) machines: Vec<String>,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) leave: bool,
    pub(crate) scarce: bool,
}

/// Reads an event; `None` for one that is about nothing that we act on.
pub(crate) fn read(body: &str) -> Option<Event> {
    let v: Value = serde_json::from_str(body).ok()?;
    let detail = &v["detail"];
    let of_detail = || detail["instance-id"].as_str().map(str::to_owned).into_iter().collect();
    let event = |reason, message: &str, leave, scarce| Event {
        machines: of_detail(),
        reason,
        message: message.to_owned(),
        leave,
        scarce,
    };
    match v["detail-type"].as_str()? {
        "EC2 Spot Instance Interruption Warning" => Some(event(
            "SpotInterrupted",
            "the machine is being taken back; its pods move",
            true,
            true,
        )),
        "EC2 Instance Rebalance Recommendation" => {
            let said = "the machine is likelier than others to be taken back";
            Some(event("SpotRebalanceRecommendation", said, false, false))
        }
        "EC2 Capacity Reservation Instance Interruption Warning" => {
            let said = "the machine's reservation is being taken back; its pods move";
            Some(event("CapacityReservationInterrupted", said, true, true))
        }
        "EC2 Instance State-change Notification" => match detail["state"].as_str()? {
            "stopping" | "stopped" => {
                Some(event("InstanceStopping", "the machine stops; its pods move", true, false))
            }
            "shutting-down" | "terminated" => {
                Some(event("InstanceTerminating", "the machine ends; its pods move", true, false))
            }
            _ => None,
        },
        "AWS Health Event"
            if detail["service"] == "EC2" && detail["eventTypeCategory"] == "scheduledChange" =>
        {
            let affected = detail["affectedEntities"].as_array()?;
            let machines = affected.iter().filter_map(|e| e["entityValue"].as_str());
            Some(Event {
                machines: machines.map(str::to_owned).collect(),
                ..event(
                    "InstanceUnhealthy",
                    "the cloud is going to change the machine; its pods move",
                    true,
                    false,
                )
            })
        }
        _ => None,
    }
}

/// The address of a queue.
pub(crate) async fn url(client: &Client, name: &str) -> Result<String, CloudError> {
    let answer = client.json(Service::Sqs, "GetQueueUrl", &json!({"QueueName": name})).await?;
    Ok(answer["QueueUrl"].as_str().unwrap_or_default().to_owned())
}

/// Waits for messages: handle and body of each.
pub(crate) async fn receive(
    client: &Client,
    url: &str,
) -> Result<Vec<(String, String)>, CloudError> {
    let input = json!({"QueueUrl": url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 20, "VisibilityTimeout": 20});
    let answer = client.json(Service::Sqs, "ReceiveMessage", &input).await?;
    let text = |m: &Value, k: &str| m[k].as_str().unwrap_or_default().to_owned();
    let all = answer["Messages"].as_array().into_iter().flatten();
    Ok(all.map(|m| (text(m, "ReceiptHandle"), text(m, "Body"))).collect())
}

/// Takes messages off the queue.
pub(crate) async fn delete(
    client: &Client,
    url: &str,
    handles: &[String],
) -> Result<(), CloudError> {
    for ten in handles.chunks(10) {
        let entry = |(i, h): (usize, &String)| json!({"Id": i.to_string(), "ReceiptHandle": h});
        let entries: Vec<Value> = ten.iter().enumerate().map(entry).collect();
        let input = json!({"QueueUrl": url, "Entries": entries});
        client.json(Service::Sqs, "DeleteMessageBatch", &input).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_say_what_to_do() {
        let of = |kind: &str, detail: Value| {
            read(&json!({"source": "aws.ec2", "detail-type": kind, "detail": detail}).to_string())
        };
        let spot =
            of("EC2 Spot Instance Interruption Warning", json!({"instance-id": "i-1"})).unwrap();
        assert!(spot.leave && spot.scarce && spot.machines == ["i-1"]);
        let told =
            of("EC2 Instance Rebalance Recommendation", json!({"instance-id": "i-1"})).unwrap();
        assert!(!told.leave);
        let state = |s: &str| {
            let kind = "EC2 Instance State-change Notification";
            of(kind, json!({"instance-id": "i-1", "state": s}))
        };
        assert!(state("stopping").unwrap().leave && state("running").is_none());
        let health = json!({"service": "EC2", "eventTypeCategory": "scheduledChange",
            "affectedEntities": [{"entityValue": "i-1"}, {"entityValue": "i-2"}]});
        assert_eq!(of("AWS Health Event", health).unwrap().machines.len(), 2);
        for bad in ["", "{}", "[]", "{\"detail-type\": 3}"] {
            assert_eq!(read(bad), None);
        }
    }
}
