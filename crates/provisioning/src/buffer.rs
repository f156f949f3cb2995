//! Capacity buffers: room that is kept for pods which are not there yet (SIG Autoscaling's
//! CapacityBuffer, `autoscaling.x-k8s.io/v1beta1`).

use coracle_scheduling::Resources;

/// How many chunks of room a buffer wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// A fixed number.
    pub replicas: Option<usize>,
    /// A share of the replicas of something, in percent.
    pub percentage: Option<usize>,
    /// Most that all chunks may ask for; resources that are not named have no limit.
    pub limits: Vec<(String, i64)>,
}

impl Wanted {
    /// The number of chunks: the smallest of what is set. `scale` is the number of replicas that the
    /// percentage is of, `chunk` what one asks for. Without any number it is none.
    pub fn chunks(&self, scale: usize, chunk: &Resources) -> usize {
        let share = self.percentage.map(|p| (scale * p).div_ceil(100));
        let limits = self.limits.iter().filter_map(|(name, most)| {
            let each = amount(chunk, name);
            (each > 0).then(|| usize::try_from(most / each).unwrap_or(0))
        });
        self.replicas.into_iter().chain(share).chain(limits).min().unwrap_or(0)
    }
}

/// The amount of a resource by its name, in the unit of [`Resources`].
fn amount(r: &Resources, name: &str) -> i64 {
    match name {
        "cpu" | "requests.cpu" => r.cpu_milli,
        "memory" | "requests.memory" => r.memory_bytes,
        "ephemeral-storage" => r.ephemeral_bytes,
        "pods" => r.pods,
        other => r.extended(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_number_holds() {
        let chunk =
            Resources { cpu_milli: 500, memory_bytes: 1 << 30, pods: 1, ..Resources::default() };
        let w = |replicas, percentage, cpu: Option<i64>| Wanted {
            replicas,
            percentage,
            limits: cpu.map(|c| ("cpu".to_owned(), c)).into_iter().collect(),
        };
        assert_eq!(w(Some(7), None, None).chunks(0, &chunk), 7);
        assert_eq!(w(None, Some(25), None).chunks(10, &chunk), 3);
        assert_eq!(w(Some(7), Some(25), Some(1_000)).chunks(10, &chunk), 2);
        assert_eq!(w(None, None, Some(2_900)).chunks(10, &chunk), 5);
        assert_eq!(w(None, None, None).chunks(10, &chunk), 0);
    }
}
