//! Random numbers that depend on what they are for, not on when they are drawn: Philox4x32-10, a counter-based generator
//! (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

/// Returns the 128 random bits that belong to a counter and a key.
pub fn philox(counter: [u32; 4], key: u64) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let mut key = [key as u32, (key >> 32) as u32];
    let mut c = counter;
    for _ in 0..10 {
        let first = MULTIPLIERS[0] * u64::from(c[0]);
        let second = MULTIPLIERS[1] * u64::from(c[2]);
        c = [(second >> 32) as u32 ^ c[1] ^ key[0], second as u32, (first >> 32) as u32 ^ c[3] ^ key[1], first as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    c
}

/// Returns the uniform number in `[0, 1)` that belongs to token `token` of sample `sample` of the row with this key.
pub fn uniform(key: u64, sample: u32, token: u32) -> f64 {
    let bits = philox([sample, token, 0, 0], key);
    let whole = (u64::from(bits[0]) << 32) | u64::from(bits[1]);
    (whole >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// Returns `count` normal numbers of mean 0 and the given deviation, by Box and Muller's method; `stream` tells apart
/// what is drawn under one seed.
pub fn normals(seed: u64, stream: u32, count: usize, deviation: f32) -> Vec<f32> {
    let unit = |bits: u32| (f64::from(bits) + 0.5) / 4_294_967_296.0;
    let mut values = Vec::with_capacity(count + 3);
    for block in 0..count.div_ceil(4) {
        let bits = philox([block as u32, stream, 0, 1], seed);
        for pair in bits.chunks_exact(2) {
            let radius = (-2.0 * unit(pair[0]).ln()).sqrt();
            let angle = 2.0 * std::f64::consts::PI * unit(pair[1]);
            values.push((radius * angle.cos()) as f32 * deviation);
            values.push((radius * angle.sin()) as f32 * deviation);
        }
    }
    values.truncate(count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // The known-answer tests of Random123, kat_vectors, philox4x32 10 rounds.
        assert_eq!(philox([0; 4], 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], 0x299f_31d0_a409_3822);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn normals_have_the_deviation_asked_for() {
        let values = normals(3, 1, 20_001, 0.5);
        assert_eq!(values.len(), 20_001);
        let mean = values.iter().sum::<f32>() / 20_001.0;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.02 && (variance.sqrt() - 0.5).abs() < 0.01, "{mean} {variance}");
        assert_ne!(values, normals(3, 2, 20_001, 0.5));
    }

    #[test]
    fn uniforms_lie_in_the_unit_interval_and_differ_by_token_and_sample() {
        let drawn: Vec<f64> = (0..1000).map(|token| uniform(9, 0, token)).collect();
        assert!(drawn.iter().all(|u| (0.0..1.0).contains(u)));
        assert!((drawn.iter().sum::<f64>() / 1000.0 - 0.5).abs() < 0.05);
        assert_ne!(uniform(9, 0, 1), uniform(9, 1, 0));
    }
}
