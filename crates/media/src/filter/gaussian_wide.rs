//! The sums of [`super::gaussian`] by AVX2: 64 columns at once, in registers.
//!
//! The compiler makes the same of plain loops in one place and half as fast code in another, so they are spelt out.
#![expect(unsafe_code, reason = "loads and stores take pointers")]

#[cfg(not(target_arch = "x86_64"))]
pub(super) use elsewhere::{across, down, is_here};
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{across, down, is_here};

/// Columns that are summed at once.
#[cfg(target_arch = "x86_64")]
const STRIP: usize = 64;

/// Where strips of a line begin that cover it all: the last one overlaps the one before.
#[cfg(target_arch = "x86_64")]
fn strips(length: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(STRIP).map(move |x| x.min(length - STRIP))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{STRIP, strips};
    use crate::filter::gaussian::HALF;

    /// Whether this processor has what it takes.
    pub(in crate::filter) fn is_here() -> bool {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }

    /// The weighted sums of columns, as the plain function makes them; false where the line is shorter than a strip.
    pub(in crate::filter) fn down(lines: &[&[u8]], weights: &[f32], sums: &mut [f32]) -> bool {
        let fits = lines.len() == 2 * weights.len() - 1;
        if sums.len() < STRIP || !fits || lines.iter().any(|line| line.len() < sums.len()) {
            return false;
        }
        // SAFETY: the processor was asked by who calls, and the lines are long enough.
        unsafe { down_strips(lines, weights, sums) };
        true
    }

    /// The weighted sums of a line's sums, rounded to levels; false where the line is shorter than a strip.
    pub(in crate::filter) fn across(sums: &[f32], weights: &[f32], levels: &mut [u8]) -> bool {
        let fits = sums.len() >= levels.len() + 2 * (weights.len() - 1);
        if levels.len() < STRIP || !fits {
            return false;
        }
        // SAFETY: the processor was asked by who calls, and the sums reach far enough.
        unsafe { across_strips(sums, weights, levels) };
        true
    }

    /// # Safety
    /// There are twice as many lines as weights, but one, and they and the sums have `STRIP` columns or more.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn down_strips(lines: &[&[u8]], weights: &[f32], sums: &mut [f32]) {
        let reach = weights.len() - 1;
        for x in strips(sums.len()) {
            // SAFETY: 64 samples from `x` on lie in each line.
            let load = |line: usize, part: usize| unsafe {
                let from = lines.get_unchecked(line).as_ptr().add(x + part * 16);
                _mm256_cvtepu8_epi16(_mm_loadu_si128(from.cast()))
            };
            #[expect(clippy::cast_possible_truncation, reason = "whole numbers up to 256")]
            let spread = |weight: f32| _mm256_set1_epi16(weight as i16);
            let weight = spread(weights[0]);
            let mut sum = [_mm256_setzero_si256(); 4];
            for (part, sum) in sum.iter_mut().enumerate() {
                *sum = _mm256_mullo_epi16(load(reach, part), weight);
            }
            for (i, weight) in weights.iter().enumerate().skip(1) {
                let weight = spread(*weight);
                for (part, sum) in sum.iter_mut().enumerate() {
                    let both = _mm256_add_epi16(load(reach - i, part), load(reach + i, part));
                    *sum = _mm256_add_epi16(*sum, _mm256_mullo_epi16(both, weight));
                }
            }
            for (part, sum) in sum.iter().enumerate() {
                let low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(*sum));
                let high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(*sum));
                // SAFETY: 64 sums from `x` on are there.
                unsafe {
                    let to = sums.as_mut_ptr().add(x + part * 16);
                    _mm256_storeu_ps(to, _mm256_cvtepi32_ps(low));
                    _mm256_storeu_ps(to.add(8), _mm256_cvtepi32_ps(high));
                }
            }
        }
    }

    /// # Safety
    /// There are `STRIP` levels or more, and as many sums more as there are weights on both sides of the middle.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn across_strips(sums: &[f32], weights: &[f32], levels: &mut [u8]) {
        let reach = weights.len() - 1;
        for x in strips(levels.len()) {
            // SAFETY: 64 sums from `x + from` on are there.
            let load = |from: usize, part: usize| unsafe {
                _mm256_loadu_ps(sums.as_ptr().add(x + from + part * 8))
            };
            let weight = _mm256_set1_ps(weights[0]);
            let mut sum = [_mm256_set1_ps(HALF); 8];
            for (part, sum) in sum.iter_mut().enumerate() {
                *sum = _mm256_fmadd_ps(load(reach, part), weight, *sum);
            }
            for (i, weight) in weights.iter().enumerate().skip(1) {
                let weight = _mm256_set1_ps(*weight);
                for (part, sum) in sum.iter_mut().enumerate() {
                    let both = _mm256_add_ps(load(reach - i, part), load(reach + i, part));
                    *sum = _mm256_fmadd_ps(both, weight, *sum);
                }
            }
            let level = sum.map(|sum| _mm256_srli_epi32::<16>(_mm256_cvttps_epi32(sum)));
            for (part, four) in level.chunks_exact(4).enumerate() {
                let pair = |a, b| _mm256_packus_epi32(a, b);
                let bytes = _mm256_packus_epi16(pair(four[0], four[1]), pair(four[2], four[3]));
                // Packing works on halves of registers: fours of bytes stand as 0 2 4 6 1 3 5 7.
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                let bytes = _mm256_permutevar8x32_epi32(bytes, order);
                // SAFETY: 64 levels from `x` on are there.
                unsafe {
                    let to = levels.as_mut_ptr().add(x + part * 32);
                    _mm256_storeu_si256(to.cast(), bytes);
                }
            }
        }
    }
}

/// Processors of other kinds: the plain functions do it.
#[cfg(not(target_arch = "x86_64"))]
mod elsewhere {
    pub(in crate::filter) fn is_here() -> bool {
        false
    }

    pub(in crate::filter) fn down(_: &[&[u8]], _: &[f32], _: &mut [f32]) -> bool {
        false
    }

    pub(in crate::filter) fn across(_: &[f32], _: &[f32], _: &mut [u8]) -> bool {
        false
    }
}
