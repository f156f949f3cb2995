//! Lines of the viewer. A pure function, so that its layout can be held still by a test.

use super::model::{Row, Summary};
use coracle_meta::Quantity;

/// Cells of the summary's bar and of a node's bar.
const BARS: (usize, usize) = (40, 20);

/// With colours or without.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Colour,
}

fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

fn share(used: i64, total: i64) -> f64 {
    if total > 0 { used as f64 / total as f64 } else { 0.0 }
}

/// A bar whose cells go from red to green.
fn bar(share: f64, cells: usize, style: Style) -> String {
    let full = ((share.clamp(0.0, 1.0) * cells as f64).round()) as usize;
    let mut out = String::new();
    for i in 0..cells {
        let cell = if i < full { '█' } else { '░' };
        if style == Style::Colour && i < full {
            // #FF0000 to #04B575.
            let t = i as f64 / (cells - 1) as f64;
            let mix = |a: f64, b: f64| (a + (b - a) * t).round() as u8;
            out += &format!(
                "\x1b[38;2;{};{};{}m{cell}\x1b[0m",
                mix(255.0, 4.0),
                mix(0.0, 181.0),
                mix(0.0, 117.0)
            );
        } else {
            out.push(cell);
        }
    }
    out
}

/// Full is good: green above 90 %, yellow above 60 %, else red.
fn percent(text: &str, share: f64, style: Style) -> String {
    let colour = match share {
        s if s > 0.9 => 32,
        s if s > 0.6 => 33,
        _ => 31,
    };
    if style == Style::Colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

fn status(r: &Row) -> &'static str {
    match (r.cordoned, r.deleting) {
        (true, true) => "Cordoned/Deleting",
        (true, false) => "Cordoned",
        (false, true) => "Deleting",
        (false, false) => "-",
    }
}

/// The whole picture.
pub(crate) fn lines(s: &Summary, style: Style) -> Vec<String> {
    let (used, total) = (s.used().cpu_milli, s.allocatable().cpu_milli);
    let fill = share(used, total);
    let milli = |m: i64| Quantity::from_millis(m).to_string();
    let mut out = vec![
        format!(
            "{} nodes ({:>10}/{}) {} cpu {} ${:.3}/hour | ${:.3}/month",
            s.rows.len(),
            milli(used),
            milli(total),
            percent(&format!("{:.1}%", fill * 100.0), fill, style),
            bar(fill, BARS.0, style),
            s.usd_per_hour(),
            s.usd_per_month()
        ),
        format!(
            "{} pods ({} pending {} running {} bound)",
            thousands(s.pods),
            thousands(s.pending),
            thousands(s.running),
            thousands(s.bound)
        ),
        String::new(),
    ];
    let mut cells: Vec<[String; 7]> = Vec::new();
    for r in &s.rows {
        let fill = share(r.used.cpu_milli, r.allocatable.cpu_milli);
        let price = r.usd_per_hour.map_or(String::new(), |p| format!("/${p:.4}"));
        cells.push([
            r.name.clone(),
            format!(
                "cpu {} {}",
                bar(fill, BARS.1, style),
                percent(&format!("{:>3.0}%", fill * 100.0), fill, style)
            ),
            format!("({}/{} pods)", r.pods, r.allocatable.pods),
            format!("{}{price}", r.instance_type),
            r.capacity_type.clone(),
            status(r).into(),
            r.state.clone(),
        ]);
    }
    let mut widths = [0; 7];
    for row in &cells {
        for (w, c) in widths.iter_mut().zip(row) {
            *w = (*w).max(visible(c));
        }
    }
    for row in &cells {
        let pad = |(c, w): (&String, usize)| format!("{c}{}", " ".repeat(w - visible(c)));
        let line: Vec<String> = row.iter().zip(widths).map(pad).collect();
        out.push(line.join("  ").trim_end().to_owned());
    }
    out
}

/// Characters that take a cell on the screen: colour codes do not.
fn visible(s: &str) -> usize {
    let mut inside = false;
    s.chars()
        .filter(|c| match c {
            '\x1b' => {
                inside = true;
                false
            }
            'm' if inside => {
                inside = false;
                false
            }
            _ => !inside,
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_scheduling::Resources;

    #[test]
    fn the_layout_is_the_one_that_people_know() {
        let row = |name: &str, used: i64, kind: &str, price: f64| Row {
            name: name.into(),
            used: Resources { cpu_milli: used, ..Resources::default() },
            allocatable: Resources { cpu_milli: 31_850, pods: 234, ..Resources::default() },
            pods: 103,
            instance_type: "c6a.8xlarge".into(),
            usd_per_hour: Some(price),
            capacity_type: kind.into(),
            cordoned: kind == "Spot",
            state: "Ready".into(),
            ..Row::default()
        };
        let s = Summary {
            rows: vec![row("a", 31_850, "On-Demand", 1.224), row("node-b", 15_925, "Spot", 0.4)],
            pods: 1206,
            pending: 0,
            running: 1206,
            bound: 1206,
        };
        assert_eq!(
            lines(&s, Style::Plain).join("\n"),
            "2 nodes (    47775m/63700m) 75.0% cpu ██████████████████████████████░░░░░░░░░░ $1.624/hour | $1185.520/month\n\
             1,206 pods (0 pending 1,206 running 1,206 bound)\n\n\
             a       cpu ████████████████████ 100%  (103/234 pods)  c6a.8xlarge/$1.2240  On-Demand  -         Ready\n\
             node-b  cpu ██████████░░░░░░░░░░  50%  (103/234 pods)  c6a.8xlarge/$0.4000  Spot       Cordoned  Ready"
        );
        let coloured = lines(&s, Style::Colour);
        assert_eq!(visible(&coloured[0]), lines(&s, Style::Plain)[0].chars().count());
    }
}
