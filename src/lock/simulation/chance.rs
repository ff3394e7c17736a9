//! The chance that a seed decides (SplitMix64).

#[derive(Clone, Copy, Debug)]
pub(in crate::lock) struct Chance(u64);

impl Chance {
    pub(super) fn of(seed: u64) -> Self {
        let mut chance = Self(seed ^ 0x6c6f_636b_7321_7369);
        chance.number();
        chance
    }

    /// A chance that depends on these numbers alone, whatever was drawn before: dropping one operation from a scenario leaves
    /// the fate of all others as it was.
    pub(super) fn for_each(seed: u64, numbers: &[u64]) -> Self {
        let mut chance = Self::of(seed);
        for number in numbers {
            chance.0 = chance.number() ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        chance.number();
        chance
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to less than 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub(super) fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From `least` to `most`, both included.
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.number() % (most - least + 1)
    }

    pub(super) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.number() % length as u64).unwrap()
    }

    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.number() % 100 < percent
    }
}
