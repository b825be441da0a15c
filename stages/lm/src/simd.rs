//! Two inner loops of decoding on the CPU in fp32: attention of one query over the keys of one row, and sums of
//! exponentials. Plain Rust, compiled a second time for AVX2 with FMA and chosen at run time.
//!
//! libtorch has no operation for rows of different lengths that gives the same bits whatever stands beside a row. Here each
//! row is worked on alone, over exactly its own length.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for AVX2")]

/// Keys and values of one row and one key-value head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadCache<'a> {
    /// Keys, `[head_dim, capacity]`: dimension by dimension, so that positions lie side by side.
    pub(crate) keys: &'a [f32],
    /// Values, `[capacity, head_dim]`.
    pub(crate) values: &'a [f32],
    /// Positions there is room for.
    pub(crate) capacity: usize,
    /// Positions in use.
    pub(crate) len: usize,
}

/// Writes soft-max attention of the query `[head_dim]`, already scaled, into `out` `[head_dim]`; `scores` is memory to reuse.
pub(crate) fn attend(query: &[f32], cache: &HeadCache<'_>, scores: &mut Vec<f32>, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        #[expect(unsafe_code, reason = "a function compiled for AVX2 and FMA may be called where they were found")]
        // SAFETY: `has_avx2` has just found both features on this CPU.
        unsafe {
            avx2::attend(query, cache, scores, out);
        }
        return;
    }
    attend_plain::<false>(query, cache, scores, out);
}

/// Replaces every value by its exponential and returns their sum. Values should be at most 0 (relative to their maximum).
pub(crate) fn exp_sum(values: &mut [f32]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        #[expect(unsafe_code, reason = "a function compiled for AVX2 and FMA may be called where they were found")]
        // SAFETY: `has_avx2` has just found both features on this CPU.
        return unsafe { avx2::exp_sum(values) };
    }
    exp_sum_plain::<false>(values)
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::HeadCache;

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn attend(query: &[f32], cache: &HeadCache<'_>, scores: &mut Vec<f32>, out: &mut [f32]) {
        super::attend_plain::<true>(query, cache, scores, out);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn exp_sum(values: &mut [f32]) -> f64 {
        super::exp_sum_plain::<true>(values)
    }
}

const LANES: usize = 8;

/// `a * b + c`, fused where the CPU does that.
#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn attend_plain<const FUSED: bool>(query: &[f32], cache: &HeadCache<'_>, scores: &mut Vec<f32>, out: &mut [f32]) {
    let (len, size) = (cache.len, query.len());
    scores.clear();
    scores.resize(len, 0.0);
    // Four dimensions at a time: the scores are then read and written a quarter as often.
    let mut d = 0;
    while d + 4 <= size {
        let q = [query[d], query[d + 1], query[d + 2], query[d + 3]];
        let line = |i: usize| &cache.keys[(d + i) * cache.capacity..(d + i) * cache.capacity + len];
        let (k0, k1, k2, k3) = (line(0), line(1), line(2), line(3));
        for t in 0..len {
            let sum = multiply_add::<FUSED>(q[0], k0[t], scores[t]);
            let sum = multiply_add::<FUSED>(q[1], k1[t], sum);
            let sum = multiply_add::<FUSED>(q[2], k2[t], sum);
            scores[t] = multiply_add::<FUSED>(q[3], k3[t], sum);
        }
        d += 4;
    }
    while d < size {
        let line = &cache.keys[d * cache.capacity..d * cache.capacity + len];
        for t in 0..len {
            scores[t] = multiply_add::<FUSED>(query[d], line[t], scores[t]);
        }
        d += 1;
    }
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in scores.iter_mut() {
        *score -= max;
    }
    let inverse = (1.0 / exp_sum_plain::<FUSED>(scores)) as f32;
    let mut at = 0;
    while at + 4 * LANES <= size {
        sum_values::<FUSED, { 4 * LANES }>(scores, cache.values, size, at, inverse, out);
        at += 4 * LANES;
    }
    while at + LANES <= size {
        sum_values::<FUSED, LANES>(scores, cache.values, size, at, inverse, out);
        at += LANES;
    }
    while at < size {
        sum_values::<FUSED, 1>(scores, cache.values, size, at, inverse, out);
        at += 1;
    }
}

/// Sums `W` dimensions of the values, weighted; the sums stay in registers.
#[inline(always)]
fn sum_values<const FUSED: bool, const W: usize>(
    weights: &[f32],
    values: &[f32],
    size: usize,
    at: usize,
    scale: f32,
    out: &mut [f32],
) {
    let mut sums = [0.0_f32; W];
    for (weight, line) in weights.iter().zip(values.chunks_exact(size)) {
        let line: &[f32; W] = line[at..at + W].try_into().expect("the slice has that length");
        for i in 0..W {
            sums[i] = multiply_add::<FUSED>(*weight, line[i], sums[i]);
        }
    }
    for i in 0..W {
        out[at + i] = sums[i] * scale;
    }
}

#[inline(always)]
fn exp_sum_plain<const FUSED: bool>(values: &mut [f32]) -> f64 {
    let mut sums = [0.0_f32; LANES];
    let mut total = 0.0_f64;
    // Lanes are summed in fp32 over a block and the blocks in fp64, so that a vocabulary of 150,000 keeps its digits.
    for block in values.chunks_mut(1024) {
        let mut chunks = block.chunks_exact_mut(LANES);
        for chunk in &mut chunks {
            for i in 0..LANES {
                chunk[i] = exp::<FUSED>(chunk[i]);
                sums[i] += chunk[i];
            }
        }
        for value in chunks.into_remainder() {
            *value = exp::<FUSED>(*value);
            total += f64::from(*value);
        }
        total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
        sums = [0.0; LANES];
    }
    total
}

/// The exponential to about 2 units in the last place: `2^n * 2^f` with f in [-1/2, 1/2] by a polynomial (Cephes `expf`).
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Adding this moves the integer part of a number into the low bits of its mantissa.
    const SHIFT: f32 = 12_582_912.0;
    // Below, the result would not be a normal number; it is taken as the smallest one, which no sum notices.
    let x = x.clamp(-87.0, 88.0);
    let shifted = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = multiply_add::<FUSED>(n, -0.693_359_4, x);
    let r = multiply_add::<FUSED>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = multiply_add::<FUSED>(p, r, coefficient);
    }
    let p = multiply_add::<FUSED>(p * r, r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    p * power
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    #[test]
    fn exponentials_agree_with_the_library() {
        let inputs: Vec<f32> = (0..3001).map(|i| -80.0 * (i as f32) / 3000.0).collect();
        let mut values = inputs.clone();
        let sum = exp_sum(&mut values);
        for (x, y) in inputs.iter().zip(&values) {
            let expected = f64::from(*x).exp();
            assert!((f64::from(*y) / expected - 1.0).abs() < 3e-7, "exp({x}) = {y}");
        }
        let expected: f64 = inputs.iter().map(|&x| f64::from(x).exp()).sum();
        assert!((sum / expected - 1.0).abs() < 1e-6);
    }

    #[test]
    fn attention_agrees_with_its_definition_at_every_head_size() {
        for (size, len) in [(1, 1), (8, 3), (12, 65), (32, 130), (80, 9)] {
            let capacity = len + 5;
            let draw = |stream, count| random::normals(5, stream, count, 1.0);
            let (query, keys, values) = (draw(0, size), draw(1, size * capacity), draw(2, capacity * size));
            let cache = HeadCache { keys: &keys, values: &values, capacity, len };
            let scores: Vec<f64> = (0..len)
                .map(|t| (0..size).map(|d| f64::from(query[d]) * f64::from(keys[d * capacity + t])).sum::<f64>().exp())
                .collect();
            let total: f64 = scores.iter().sum();
            let (mut out, mut plain) = (vec![0.0; size], vec![0.0; size]);
            attend(&query, &cache, &mut Vec::new(), &mut out);
            attend_plain::<false>(&query, &cache, &mut Vec::new(), &mut plain);
            for d in 0..size {
                let expected: f64 = (0..len).map(|t| scores[t] / total * f64::from(values[t * size + d])).sum();
                for got in [out[d], plain[d]] {
                    assert!((f64::from(got) - expected).abs() < 1e-4, "size {size}, len {len}: {got} for {expected}");
                }
            }
        }
    }
}
