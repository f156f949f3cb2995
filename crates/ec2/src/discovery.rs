//! What the region sells and for how much, asked for now and then: types and on-demand prices twice a
//! day, spot prices every hour. What cannot be refreshed stays as it was.

use crate::{
    client::{Client, Service, error},
    facts::{Facts, Prices},
    wire::{Form, items, parse, text},
};
use coracle_clouds::{CloudError, families::listed};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Types and their list prices change this rarely.
const TYPES_EVERY: Duration = Duration::from_secs(12 * 3600);
/// Spot prices are looked at this often.
const SPOT_EVERY: Duration = Duration::from_secs(3600);
/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(300);
/// Most pages of an answer: a cloud that never ends is not listened to for ever.
const PAGES: usize = 500;

/// What is known of the region.
#[derive(Clone, Debug, Default)]
pub(crate) struct Region {
    pub(crate) types: Vec<Arc<Facts>>,
    pub(crate) prices: Prices,
}

#[derive(Debug, Default)]
struct State {
    region: Arc<Region>,
    types_due: Option<Instant>,
    spot_due: Option<Instant>,
}

/// Keeps what is known of the region.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    state: Mutex<State>,
    /// One caller asks at a time.
    asking: tokio::sync::Mutex<()>,
}

/// All pages of a describing request, each passed to `read`.
pub(crate) async fn pages(
    client: &Client,
    action: &str,
    form: &Form,
    mut read: impl FnMut(roxmltree::Node<'_, '_>),
) -> Result<(), CloudError> {
    let mut next: Option<String> = None;
    for _ in 0..PAGES {
        let form = next.as_ref().map_or_else(|| form.clone(), |token| form.page(token));
        let body = client.query(Service::Ec2, action, &form.0).await?;
        let xml = parse(action, &body)?;
        read(xml.root_element());
        let token = text(xml.root_element(), "nextToken").to_owned();
        if token.is_empty() || next.as_ref() == Some(&token) {
            return Ok(());
        }
        next = Some(token);
    }
    Err(error(action, "TooManyPages", "the answer does not end"))
}

impl Discovery {
    /// What is known, refreshed if it is old.
    pub(crate) async fn region(
        &self,
        client: &Client,
        name: &str,
    ) -> Result<Arc<Region>, CloudError> {
        let _one = self.asking.lock().await;
        let (old, types_due, spot_due) = {
            let s = self.state.lock();
            let due = |at: Option<Instant>| at.is_none_or(|t| t <= Instant::now());
            (s.region.clone(), due(s.types_due), due(s.spot_due))
        };
        if !types_due && !spot_due {
            return Ok(old);
        }
        let mut new = (*old).clone();
        if types_due {
            let found = refresh_types(client, name, &mut new).await;
            let mut s = self.state.lock();
            s.types_due = Some(Instant::now() + if found.is_ok() { TYPES_EVERY } else { RETRY });
            if let Err(e) = found {
                if old.types.is_empty() {
                    s.types_due = None;
                    return Err(e);
                }
                tracing::warn!(error = %e, "instance types are not refreshed");
            }
        }
        if spot_due {
            let found = spot_prices(client).await;
            let wait = if found.is_ok() { SPOT_EVERY } else { RETRY };
            self.state.lock().spot_due = Some(Instant::now() + wait);
            match found {
                Ok(prices) => new.prices.spot = prices,
                Err(error) => tracing::warn!(%error, "spot prices are not refreshed"),
            }
        }
        let new = Arc::new(new);
        self.state.lock().region = new.clone();
        Ok(new)
    }
}

async fn refresh_types(client: &Client, name: &str, r: &mut Region) -> Result<(), CloudError> {
    let mut form = Form::default();
    form.put("MaxResults", 100);
    let mut types = Vec::new();
    pages(client, "DescribeInstanceTypes", &form, |page| {
        types.extend(items(page, "instanceTypeSet").filter_map(Facts::read).map(Arc::new));
    })
    .await?;
    let mut form = Form::default();
    form.put("LocationType", "availability-zone");
    form.put("MaxResults", 1000);
    let mut offered: HashMap<Arc<str>, BTreeSet<Arc<str>>> = HashMap::new();
    pages(client, "DescribeInstanceTypeOfferings", &form, |page| {
        for o in items(page, "instanceTypeOfferingSet") {
            let of_zone = offered.entry(text(o, "location").into()).or_default();
            of_zone.insert(text(o, "instanceType").into());
        }
    })
    .await?;
    let sorted = offered.into_iter().map(|(zone, all)| (zone, all.into_iter().collect()));
    r.prices.offered = sorted.collect();
    r.types = types;
    match on_demand_prices(client, name).await {
        Ok(prices) => {
            r.prices.on_demand = prices;
        }
        Err(e) if r.prices.on_demand.is_empty() => {
            let built_in = listed().iter().map(|t| (t.name.as_str().into(), t.usd_per_hour));
            r.prices.on_demand = built_in.collect();
            tracing::warn!(error = %e, "on-demand prices are those of the built-in list");
        }
        Err(error) => tracing::warn!(%error, "on-demand prices are not refreshed"),
    }
    Ok(())
}

/// On-demand prices of Linux machines.
async fn on_demand_prices(
    client: &Client,
    region: &str,
) -> Result<HashMap<Arc<str>, f64>, CloudError> {
    let filter =
        |field: &str, value: &str| json!({"Type": "TERM_MATCH", "Field": field, "Value": value});
    let filters = [
        filter("regionCode", region),
        filter("operatingSystem", "Linux"),
        filter("tenancy", "Shared"),
        filter("preInstalledSw", "NA"),
        filter("capacitystatus", "Used"),
        filter("marketoption", "OnDemand"),
    ];
    let mut prices = HashMap::new();
    let mut input = json!({"ServiceCode": "AmazonEC2", "Filters": filters, "MaxResults": 100});
    for _ in 0..PAGES {
        let answer = client.json(Service::Pricing, "GetProducts", &input).await?;
        prices.extend(answer["PriceList"].as_array().into_iter().flatten().filter_map(price));
        match answer["NextToken"].as_str().filter(|t| !t.is_empty()) {
            Some(token) => input["NextToken"] = json!(token),
            None if prices.is_empty() => {
                return Err(error("GetProducts", "NoPrices", "the price list is empty"));
            }
            None => return Ok(prices),
        }
    }
    Err(error("GetProducts", "TooManyPages", "the answer does not end"))
}

/// Type and price of a product, which is JSON in text.
fn price(product: &Value) -> Option<(Arc<str>, f64)> {
    let product: Value = serde_json::from_str(product.as_str()?).ok()?;
    let name = product["product"]["attributes"]["instanceType"].as_str()?;
    let terms = product["terms"]["OnDemand"].as_object()?.values();
    let dimensions = terms.filter_map(|t| t["priceDimensions"].as_object());
    let usd = dimensions.flat_map(|d| d.values()).find_map(|d| {
        let usd: f64 = d["pricePerUnit"]["USD"].as_str()?.parse().ok()?;
        (usd > 0.0 && usd.is_finite()).then_some(usd)
    })?;
    Some((name.into(), usd))
}

/// The newest spot prices by type and zone.
async fn spot_prices(client: &Client) -> Result<HashMap<(Arc<str>, Arc<str>), f64>, CloudError> {
    let mut form = Form::default();
    form.put("MaxResults", 1000);
    // Of no time at all: the prices of now.
    form.put("StartTime", coracle_meta::time::rfc3339(jiff::Timestamp::now()));
    for (i, d) in ["Linux/UNIX", "Linux/UNIX (Amazon VPC)"].iter().enumerate() {
        form.put(format!("ProductDescription.{}", i + 1), d);
    }
    // Of several the newest counts.
    let mut newest: HashMap<(Arc<str>, Arc<str>), (String, f64)> = HashMap::new();
    pages(client, "DescribeSpotPriceHistory", &form, |page| {
        for p in items(page, "spotPriceHistorySet") {
            let Ok(usd) = text(p, "spotPrice").parse::<f64>() else { continue };
            let at = text(p, "timestamp").to_owned();
            let key = (text(p, "instanceType").into(), text(p, "availabilityZone").into());
            let older = newest.get(&key).is_some_and(|(t, _)| *t > at);
            if !older && usd > 0.0 && usd.is_finite() {
                newest.insert(key, (at, usd));
            }
        }
    })
    .await?;
    Ok(newest.into_iter().map(|(k, (_, usd))| (k, usd)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_read() {
        let product = json!({"product": {"attributes": {"instanceType": "m5.large"}},
            "terms": {"OnDemand": {"X": {"priceDimensions": {"Y": {"unit": "Hrs", "pricePerUnit": {"USD": "0.0960000000"}}}}}}});
        let (name, usd) = price(&json!(product.to_string())).unwrap();
        assert_eq!((&*name, usd), ("m5.large", 0.096));
        for bad in [json!(1), json!("{"), json!("{}")] {
            assert_eq!(price(&bad), None);
        }
    }
}
