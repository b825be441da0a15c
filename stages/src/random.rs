//! Counter-based randomness: what is drawn depends on (seed, kind, purpose, row id) and on nothing else,
//! so no result depends on the order of rows, on batches or on threads.

use std::fmt::Debug;

/// A stream of random numbers that belongs to one purpose of one row.
pub struct Random {
    stream: blake3::OutputReader,
}

impl Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random")
    }
}

impl Random {
    /// The stream for a seed, a kind's name, a purpose inside the kind, and a row's id.
    pub fn new(seed: u64, kind: &str, purpose: &str, row_id: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("ablate 2026 counter-based randomness");
        hasher.update(&seed.to_le_bytes());
        for part in [kind, purpose, row_id] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self { stream: hasher.finalize_xof() }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.stream.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Uniform in `[0, 1)`, with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..n`, without bias.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "a choice needs something to choose from");
        let n = n as u64;
        let limit = u64::MAX - u64::MAX % n;
        loop {
            let bits = self.bits();
            if bits < limit {
                return (bits % n) as usize;
            }
        }
    }

    /// One of the items, each as likely as the others.
    ///
    /// # Panics
    /// If there are none.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Shuffles by Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// A stable id: the first 128 bits of a digest of the parts, in hexadecimal.
pub fn stable_id(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("ablate 2026 row id");
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_each_of_its_names_and_on_nothing_else() {
        let draw = |seed, kind, purpose, row| Random::new(seed, kind, purpose, row).bits();
        let base = draw(17, "pair", "format", "a");
        assert_eq!(base, draw(17, "pair", "format", "a"));
        for other in [
            draw(18, "pair", "format", "a"),
            draw(17, "pai", "rformat", "a"),
            draw(17, "pair", "side", "a"),
            draw(17, "pair", "format", "b"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let mut random = Random::new(1, "test", "below", "");
        let mut counts = [0; 7];
        for _ in 0..7_000 {
            counts[random.below(7)] += 1;
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }
}
