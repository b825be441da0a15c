//! The order in which training sees its examples.
//!
//! The order is a function of the examples' `position` and `bucket` columns, their ids and the seed, never of the order in
//! which rows happen to be stored; so a run that was killed finds its place again by counting.

use ablate_stages::random::Random;
use ablate_stages::train::Repeat;

/// What the order of an example depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The example's id.
    pub id: &'a str,
    /// Its curriculum bucket.
    pub bucket: Option<u32>,
    /// Its place in the curriculum.
    pub position: Option<u32>,
}

/// Returns the indices of all examples as training sees them, every one `epochs` times.
///
/// The order is by position, then by id. With `shuffle` every epoch draws an order of its own, inside its bucket where epochs
/// repeat by bucket.
pub fn order(places: &[Place<'_>], repeat: Repeat, epochs: u32, shuffle: bool, seed: u64) -> Vec<usize> {
    let mut base: Vec<usize> = (0..places.len()).collect();
    base.sort_by_key(|&i| (places[i].position.unwrap_or(u32::MAX), places[i].id));
    let mut order = Vec::with_capacity(base.len() * epochs as usize);
    let mut repeat_all = |indices: &[usize], name: &str| {
        for epoch in 0..epochs {
            let mut indices = indices.to_vec();
            if shuffle {
                Random::new(seed, "train", "shuffle", &format!("{name}{epoch}")).shuffle(&mut indices);
            }
            order.extend(indices);
        }
    };
    match repeat {
        Repeat::Sweep => repeat_all(&base, ""),
        Repeat::PerBucket => {
            base.sort_by_key(|&i| places[i].bucket);
            for bucket in base.chunk_by(|&a, &b| places[a].bucket == places[b].bucket) {
                repeat_all(bucket, &format!("{}/", places[bucket[0]].bucket.unwrap_or(0)));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: [Place<'static>; 5] = [
        Place { id: "e", bucket: Some(2), position: Some(4) },
        Place { id: "a", bucket: Some(1), position: Some(1) },
        Place { id: "b", bucket: Some(1), position: Some(0) },
        Place { id: "c", bucket: Some(2), position: Some(2) },
        Place { id: "d", bucket: Some(2), position: Some(3) },
    ];

    #[test]
    fn a_sweep_repeats_the_whole_curriculum() {
        assert_eq!(order(&PLACES, Repeat::Sweep, 2, false, 0), [2, 1, 3, 4, 0, 2, 1, 3, 4, 0]);
    }

    #[test]
    fn repeating_per_bucket_finishes_a_bucket_before_the_next() {
        assert_eq!(order(&PLACES, Repeat::PerBucket, 2, false, 0), [2, 1, 2, 1, 3, 4, 0, 3, 4, 0]);
    }

    #[test]
    fn a_shuffle_stays_inside_its_bucket_and_depends_on_the_seed_alone() {
        let many: Vec<String> = (0..40).map(|i| format!("{i:02}")).collect();
        let places: Vec<_> = many
            .iter()
            .enumerate()
            .map(|(i, id)| Place { id, bucket: Some(i as u32 / 20), position: Some(i as u32) })
            .collect();
        let found = order(&places, Repeat::PerBucket, 2, true, 7);
        assert!(found[..40].iter().all(|&i| i < 20) && found[40..].iter().all(|&i| i >= 20));
        assert_ne!(found[..20], found[20..40], "each epoch draws anew");
        assert_eq!(found, order(&places, Repeat::PerBucket, 2, true, 7));
        assert_ne!(found, order(&places, Repeat::PerBucket, 2, true, 8));
    }

    #[test]
    fn the_stored_order_of_rows_does_not_matter() {
        let mut turned = PLACES;
        turned.reverse();
        let ids =
            |places: &[Place<'static>], order: Vec<usize>| order.iter().map(|&i| places[i].id).collect::<Vec<_>>();
        for shuffle in [false, true] {
            assert_eq!(
                ids(&PLACES, order(&PLACES, Repeat::Sweep, 3, shuffle, 1)),
                ids(&turned, order(&turned, Repeat::Sweep, 3, shuffle, 1))
            );
        }
    }
}
