//! Explanations for eyes.

use coracle_control::provisioner::{Alternative, NodeFacts, PodFacts, PoolFacts};
use serde_json::Value;
use std::fmt::Write;

/// A line; writing into a String cannot fail.
fn line(out: &mut String, text: &str) {
    let _ = writeln!(out, "{text}");
}

fn usd(v: &Value) -> String {
    format!("${:.4}/h", v.as_f64().unwrap_or(0.0))
}

fn offering(o: &Alternative) -> String {
    format!("{}, {}, {}, ${:.4}/h", o.instance_type, o.capacity_type, o.zone, o.usd_per_hour)
}

/// Why a node was bought, as it was written down.
fn bought(out: &mut String, b: &Value) {
    let text = |k: &str| b[k].as_str().unwrap_or_default();
    if b.is_null() {
        return line(out, "  nothing is written down about that");
    }
    if !text("time").is_empty() {
        line(out, &format!("  at {} ({}): {}", text("time"), text("action"), text("message")));
    }
    line(out, &format!("  {}", text("reason")));
    let pods: Vec<&str> =
        b["pods"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !pods.is_empty() {
        let more = b["podCount"].as_u64().unwrap_or(0).saturating_sub(4);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        line(
            out,
            &format!("  for {}{rest}", pods.iter().take(4).copied().collect::<Vec<_>>().join(", ")),
        );
    }
    let others = b["alternatives"].as_array().into_iter().flatten();
    let others: Vec<String> = others
        .map(|a| {
            format!("{} {}", a["instanceType"].as_str().unwrap_or_default(), usd(&a["usdPerHour"]))
        })
        .collect();
    if !others.is_empty() {
        line(out, &format!("  the next cheapest were {}", others.join(", ")));
    }
}

/// A node.
pub(super) fn node(f: &NodeFacts) -> String {
    let mut out = String::new();
    line(
        &mut out,
        &format!(
            "Node {} of NodePool {}: {}",
            f.name,
            or_none(&f.node_pool),
            offering(&f.offering)
        ),
    );
    line(
        &mut out,
        &format!(
            "{} pods that can move; {:.0} % of its processors and {:.0} % of its memory are asked for",
            f.pods, f.cpu_percent, f.memory_percent
        ),
    );
    line(&mut out, "\nWhy it was bought:");
    bought(&mut out, &f.bought);
    line(&mut out, "\nWhy it stays:");
    if f.stays_because.is_empty() {
        line(&mut out, "  it does not: the next look gives it up");
    }
    f.stays_because.iter().for_each(|r| line(&mut out, &format!("  {r}")));
    match &f.instead {
        Some((types, _)) if types.is_empty() => {
            line(&mut out, "\nIts pods would fit on nodes that are there.")
        }
        Some((types, usd)) => line(
            &mut out,
            &format!("\nFor its pods {} would do, for ${usd:.4}/h.", types.join(", ")),
        ),
        None => {}
    }
    out
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

/// A pod.
pub(super) fn pod(f: &PodFacts) -> String {
    let mut out = String::new();
    match &f.node {
        Some(node) => {
            line(&mut out, &format!("Pod {} is on node {node}.", f.name));
            line(&mut out, "\nWhy that node was bought:");
            bought(&mut out, &f.bought);
        }
        None => {
            line(&mut out, &format!("Pod {} waits for a node.", f.name));
            f.would_go.iter().for_each(|w| line(&mut out, &format!("\nIt would go {w}.")));
            if !f.waits_because.is_empty() {
                line(&mut out, "\nWhy it waits:");
            }
            let reasons = f.waits_because.iter().flat_map(|r| r.split("; "));
            reasons.for_each(|r| line(&mut out, &format!("  {r}")));
        }
    }
    out
}

/// A NodePool.
pub(super) fn pool(f: &PoolFacts) -> String {
    let mut out = String::new();
    let state = if f.ready { "ready".to_owned() } else { format!("not ready: {}", f.message) };
    line(&mut out, &format!("NodePool {}, {state}", f.name));
    line(&mut out, &format!("{} nodes for ${:.4}/h", f.nodes, f.usd_per_hour));
    f.left.iter().for_each(|(name, n)| {
        line(&mut out, &format!("  below its limit of {name} are left {}", amount(name, *n)))
    });
    line(&mut out, &format!("\nIt may buy {} of the {} types of the cloud:", f.types.1, f.types.0));
    f.excluded.iter().for_each(|(key, n)| line(&mut out, &format!("  {key} excludes {n}")));
    line(&mut out, "The cheapest are");
    f.cheapest.iter().for_each(|o| line(&mut out, &format!("  {}", offering(o))));
    line(
        &mut out,
        &format!(
            "\nOf {} nodes {} are not ready or going. Its budgets let go now:",
            f.disrupted.0, f.disrupted.1
        ),
    );
    f.budgets.iter().for_each(|b| line(&mut out, &format!("  {:<14} {}", b.reason, b.allowed)));
    if !f.decisions.is_empty() {
        line(&mut out, "\nIts last decisions:");
    }
    f.decisions.iter().for_each(|(time, action, message)| {
        line(&mut out, &format!("  {time} {action}: {message}"))
    });
    out
}

/// An amount of a resource as people write it.
fn amount(name: &str, n: i64) -> String {
    match name {
        "cpu" => format!("{}", n as f64 / 1000.0),
        "memory" | "ephemeral-storage" => format!("{:.1} GiB", n as f64 / (1u64 << 30) as f64),
        _ => n.to_string(),
    }
}
