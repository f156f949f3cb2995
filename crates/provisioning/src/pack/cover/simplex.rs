//! The revised simplex method with an explicit inverse: as many rows as there are kinds of items.

use super::{Bin, Filled};

/// Values below this are rounding errors.
const EPSILON: f64 = 1e-9;
/// Columns that are looked at again before all are.
const SHORT_LIST: usize = 40;
/// A column enters if it is worth this much more than its price.
const ENTERS: f64 = 1.0 + 1e-7;

/// A feasible basis: whole demand is covered, exactly but for surplus columns.
pub(super) struct Simplex {
    /// Items of the rows.
    rows: Vec<usize>,
    /// Row of an item.
    row_of: Vec<usize>,
    inverse: Vec<Vec<f64>>,
    x: Vec<f64>,
    basis: Vec<Column>,
    y: Vec<f64>,
}

#[derive(Clone)]
enum Column {
    Filled(Filled),
    /// More than is asked for of the item of a row.
    Surplus,
}

impl Simplex {
    /// Starts from fillings of one item each, in the order of the rows.
    pub(super) fn new(rows: &[usize], left: &[usize], start: &[Filled], bins: &[Bin]) -> Self {
        let m = rows.len();
        let mut row_of = vec![usize::MAX; left.len()];
        let mut inverse = vec![vec![0.0; m]; m];
        let (mut x, mut y) = (vec![0.0; m], vec![0.0; m]);
        for (r, item) in rows.iter().enumerate() {
            row_of[*item] = r;
            let n = start[r].counts[0].1 as f64;
            inverse[r][r] = 1.0 / n;
            x[r] = left[*item] as f64 / n;
            y[r] = bins[start[r].bin].price / n;
        }
        let basis = start.iter().cloned().map(Column::Filled).collect();
        Self { rows: rows.to_vec(), row_of, inverse, x, basis, y }
    }

    /// Prices of the items, by item; 0 for those without a row.
    pub(super) fn duals(&self, items: usize) -> Vec<f64> {
        let mut out = vec![0.0; items];
        for (r, item) in self.rows.iter().enumerate() {
            out[*item] = self.y[r];
        }
        out
    }

    /// The fillings of the solution.
    pub(super) fn solution(self) -> Vec<(Filled, f64)> {
        let used = self.basis.into_iter().zip(self.x);
        used.filter_map(|(c, x)| match c {
            Column::Filled(f) if x > EPSILON => Some((f, x)),
            _ => None,
        })
        .collect()
    }

    fn worth(&self, f: &Filled) -> f64 {
        f.counts.iter().map(|(i, n)| self.y[self.row_of[*i]] * *n as f64).sum()
    }

    /// Takes in columns for as long as one pays.
    pub(super) fn improve(&mut self, columns: &[Filled], bins: &[Bin]) {
        let mut list: Vec<usize> = Vec::new();
        // Far more than is ever needed: rounding must not make it turn in a circle.
        for _ in 0..20 * self.rows.len() + 200 {
            let least = (0..self.y.len()).min_by(|a, b| self.y[*a].total_cmp(&self.y[*b]));
            if let Some(r) = least.filter(|r| self.y[*r] < -EPSILON) {
                let alpha: Vec<f64> = self.inverse.iter().map(|row| -row[r]).collect();
                if !self.pivot(&alpha, self.y[r], &Column::Surplus) {
                    return;
                }
                continue;
            }
            // The best of a short list, which is made anew when nothing on it pays any more.
            let pays = |c: &usize, s: &Self| s.worth(&columns[*c]) / bins[columns[*c].bin].price;
            let mut best: Option<(f64, usize)> = None;
            for made in [false, true] {
                if made {
                    let all = (0..columns.len()).map(|c| (pays(&c, self), c));
                    let mut all: Vec<(f64, usize)> = all.filter(|(r, _)| *r > ENTERS).collect();
                    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                    list = all.into_iter().take(SHORT_LIST).map(|(_, c)| c).collect();
                }
                for c in &list {
                    let ratio = pays(c, self);
                    if ratio > best.as_ref().map_or(ENTERS, |(r, _)| *r) {
                        best = Some((ratio, *c));
                    }
                }
                if best.is_some() {
                    break;
                }
            }
            let Some((_, c)) = best else { return };
            let c = &columns[c];
            let mut alpha = vec![0.0; self.rows.len()];
            for (item, n) in &c.counts {
                let r = self.row_of[*item];
                for (a, row) in alpha.iter_mut().zip(&self.inverse) {
                    *a += row[r] * *n as f64;
                }
            }
            let reduced = bins[c.bin].price - self.worth(c);
            if !self.pivot(&alpha, reduced, &Column::Filled(c.clone())) {
                return;
            }
        }
    }

    /// A column with its reduced cost enters for the one that it uses up first.
    fn pivot(&mut self, alpha: &[f64], reduced: f64, column: &Column) -> bool {
        let mut leaves: Option<(f64, usize)> = None;
        for (r, a) in alpha.iter().enumerate() {
            if *a > EPSILON {
                let ratio = self.x[r].max(0.0) / a;
                if leaves.is_none_or(|(best, _)| ratio < best - 1e-12) {
                    leaves = Some((ratio, r));
                }
            }
        }
        let Some((step, r)) = leaves else { return false };
        let scale = 1.0 / alpha[r];
        let mut entering = std::mem::take(&mut self.inverse[r]);
        for (y, e) in self.y.iter_mut().zip(&entering) {
            *y += reduced * scale * e;
        }
        entering.iter_mut().for_each(|e| *e *= scale);
        for (i, row) in self.inverse.iter_mut().enumerate() {
            if i != r && alpha[i].abs() > 1e-12 {
                for (v, e) in row.iter_mut().zip(&entering) {
                    *v -= alpha[i] * e;
                }
                self.x[i] -= alpha[i] * step;
            }
        }
        self.inverse[r] = entering;
        self.x[r] = step;
        self.basis[r] = column.clone();
        true
    }
}
