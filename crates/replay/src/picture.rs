//! A replay as a picture (SVG): what the nodes cost beside what they could have, and how many there were.

use crate::{Report, report::Sample};
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 64.0;
const PANEL: f64 = 200.0;
const GAP: f64 = 56.0;
const TOP: f64 = 54.0;

/// A line of a panel: name, colour, points as hours and values.
type Line<'l> = (&'l str, &'l str, Vec<(f64, f64)>);

/// The picture of a day.
pub fn svg(r: &Report) -> String {
    let hours = r.hours.max(1) as f64;
    let of = |f: fn(&Sample) -> f64| -> Vec<(f64, f64)> {
        r.samples.iter().map(|s| (s.second as f64 / 3600.0, f(s))).collect()
    };
    let planned: Vec<(f64, f64)> =
        r.ideals.iter().map(|i| (i.second as f64 / 3600.0, i.planned_usd_per_hour)).collect();
    let height = TOP + 2.0 * (PANEL + GAP) - 24.0;
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"16\" font-weight=\"600\" fill=\"#1f2933\">{} hours of a cluster, seed {}: ${:.2}, {:.1} % above plans from nothing</text>\n",
        r.hours,
        r.seed,
        r.usd,
        100.0 * r.above_planned()
    );
    panel(
        &mut out,
        TOP,
        hours,
        "US dollars an hour",
        &[
            ("paid", "#0b6bcb", of(|s| s.usd_per_hour)),
            ("planned from nothing", "#e07b00", planned),
            ("volume at the best rates", "#7b8794", of(|s| s.bound_usd_per_hour)),
        ],
    );
    panel(
        &mut out,
        TOP + PANEL + GAP,
        hours,
        "nodes, and pods by tens",
        &[
            ("nodes", "#0b6bcb", of(|s| s.nodes as f64)),
            ("pods / 10", "#b4459b", of(|s| s.pods as f64 / 10.0)),
        ],
    );
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, top: f64, hours: f64, title: &str, lines: &[Line<'_>]) {
    let most = lines.iter().flat_map(|l| &l.2).map(|p| p.1).fold(1e-9, f64::max);
    let step = nice(most / 4.0);
    let ceiling = (most / step).ceil() * step;
    let x = |h: f64| LEFT + h / hours * (WIDTH - LEFT - 20.0);
    let y = |v: f64| top + PANEL - v / ceiling * PANEL;
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\" fill=\"#52606d\">{title}</text>", top - 8.0);
    let mut v = 0.0;
    while v <= ceiling + step / 2.0 {
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#e4e7eb\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#52606d\">{}</text>",
            x(hours),
            y(v),
            y(v),
            LEFT - 8.0,
            y(v) + 4.0,
            label(v)
        );
        v += step;
    }
    let every = (hours / 8.0).ceil().max(1.0);
    let mut h = 0.0;
    while h <= hours {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#52606d\">{h}:00</text>",
            x(h),
            top + PANEL + 16.0
        );
        h += every;
    }
    let mut legend = WIDTH - 20.0;
    for (name, colour, points) in lines.iter().rev() {
        let path: Vec<String> =
            points.iter().map(|(h, v)| format!("{:.1},{:.1}", x(*h), y(*v))).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linejoin=\"round\" points=\"{}\"/>",
            path.join(" ")
        );
        let _ = writeln!(
            out,
            "<text x=\"{legend}\" y=\"{}\" text-anchor=\"end\" fill=\"{colour}\" font-weight=\"600\">{name}</text>",
            top - 8.0
        );
        legend -= 7.2 * name.len() as f64 + 18.0;
    }
}

/// A round number near a step.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.max(1e-9).log10().floor());
    let of = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * power);
    of.into_iter().find(|n| *n >= step).unwrap_or(10.0 * power)
}

fn label(v: f64) -> String {
    if v.fract().abs() < 1e-9 { format!("{v:.0}") } else { format!("{v:.2}") }
}
