//! Numbers from a seed, for workloads that others can make again.

/// A linear congruential generator (multiplier from L'Ecuyer, "Tables of linear congruential
/// generators of different sizes and good lattice structure", 1999).
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    /// A number from 0 to `n` - 1.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(3_935_559_000_370_003_845).wrapping_add(2_691_343_689_449_507_681);
        (self.0 >> 33) % n
    }

    /// One of some things.
    pub(crate) fn one_of<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len() as u64) as usize]
    }
}
