//! Which packets decoding may begin at, told from the bitstream and not from the key flag alone:
//! intra-refresh marks recovery points as keys, and some containers flag a neighbour.
//!
//! Sources: ITU-T H.264 §7.3 and D.1.8 (recovery point), H.265 §7.3.1.2, AV1 §5.9.2, RFC 6386 §9.1,
//! VP9 bitstream §6.2, ISO 13818-2 §6.2.3, ISO 14496-2 §6.2.5.

use ffmpeg_next::ffi::AVCodecID;

/// What can be said of a packet as a place to begin decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// All frames from its own presentation time on decode right from here.
    Yes,
    /// It is no such place, whatever its key flag says.
    No,
}

/// How far the codec's key flags can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyFlags {
    /// Each packet is a picture of its own.
    IntraOnly,
    /// [`check`] reads the bitstream.
    Checked,
    /// The format has no pictures that only look like keys.
    Trusted,
    /// Nothing is known: such a stream is not cut.
    Unknown,
}

/// How far key flags of `codec` can be trusted; `intra_only` as FFmpeg's codec table says.
pub(crate) fn key_flags(codec: AVCodecID, intra_only: bool) -> KeyFlags {
    use AVCodecID as C;
    match codec {
        C::AV_CODEC_ID_H264
        | C::AV_CODEC_ID_HEVC
        | C::AV_CODEC_ID_VP8
        | C::AV_CODEC_ID_VP9
        | C::AV_CODEC_ID_AV1
        | C::AV_CODEC_ID_MPEG1VIDEO
        | C::AV_CODEC_ID_MPEG2VIDEO
        | C::AV_CODEC_ID_MPEG4 => KeyFlags::Checked,
        _ if intra_only => KeyFlags::IntraOnly,
        C::AV_CODEC_ID_MSMPEG4V1
        | C::AV_CODEC_ID_MSMPEG4V2
        | C::AV_CODEC_ID_MSMPEG4V3
        | C::AV_CODEC_ID_WMV1
        | C::AV_CODEC_ID_WMV2
        | C::AV_CODEC_ID_WMV3
        | C::AV_CODEC_ID_VC1
        | C::AV_CODEC_ID_H263
        | C::AV_CODEC_ID_FLV1
        | C::AV_CODEC_ID_CINEPAK
        | C::AV_CODEC_ID_THEORA
        | C::AV_CODEC_ID_FFV1
        | C::AV_CODEC_ID_SVQ1
        | C::AV_CODEC_ID_SVQ3
        | C::AV_CODEC_ID_INDEO3
        | C::AV_CODEC_ID_VP6
        | C::AV_CODEC_ID_VP6F
        | C::AV_CODEC_ID_MSVIDEO1
        | C::AV_CODEC_ID_QTRLE
        | C::AV_CODEC_ID_RPZA => KeyFlags::Trusted,
        _ => KeyFlags::Unknown,
    }
}

/// Whether decoding may begin at a packet that is flagged as a key and begins with `data`.
///
/// `nal_length` is the size of the length field before each NAL unit (MP4, Matroska), or 0 for
/// start codes. `data` may be cut off behind the first slice.
pub(crate) fn check(codec: AVCodecID, nal_length: usize, data: &[u8]) -> Entry {
    let yes = match codec {
        AVCodecID::AV_CODEC_ID_H264 | AVCodecID::AV_CODEC_ID_HEVC => {
            return check_units(codec, &nal_units(data, nal_length));
        }
        AVCodecID::AV_CODEC_ID_VP8 => data.first().is_some_and(|b| b & 1 == 0),
        AVCodecID::AV_CODEC_ID_VP9 => vp9(data).unwrap_or(false),
        AVCodecID::AV_CODEC_ID_AV1 => av1(data).unwrap_or(false),
        AVCodecID::AV_CODEC_ID_MPEG1VIDEO | AVCodecID::AV_CODEC_ID_MPEG2VIDEO => {
            // picture_start_code, temporal_reference (10 bits), picture_coding_type (3): 1 is I.
            after_start_code(data, 0x00).is_some_and(|d| d.len() > 1 && (d[1] >> 3) & 7 == 1)
        }
        AVCodecID::AV_CODEC_ID_MPEG4 => {
            // vop_start_code, vop_coding_type (2): 0 is I.
            after_start_code(data, 0xb6).is_some_and(|d| d.first().is_some_and(|b| b >> 6 == 0))
        }
        _ => true,
    };
    if yes { Entry::Yes } else { Entry::No }
}

/// As [`check`], from the beginnings of a packet's NAL units.
pub(crate) fn check_units(codec: AVCodecID, units: &[&[u8]]) -> Entry {
    let yes = if codec == AVCodecID::AV_CODEC_ID_H264 { h264(units) } else { hevc(units) };
    if yes { Entry::Yes } else { Entry::No }
}

/// Size of the length field before each NAL unit, told from `extradata`; 0 for start codes.
pub(crate) fn nal_length(codec: AVCodecID, extradata: &[u8]) -> usize {
    let at = match codec {
        AVCodecID::AV_CODEC_ID_H264 => 4,
        AVCodecID::AV_CODEC_ID_HEVC => 21,
        _ => return 0,
    };
    // A configuration record begins with its version, Annex B with a start code.
    let is_record = extradata.len() > at
        && match codec {
            AVCodecID::AV_CODEC_ID_H264 => extradata[0] == 1,
            _ => extradata[0] != 0 || extradata[1] != 0 || extradata[2] > 1,
        };
    if is_record { usize::from(extradata[at] & 3) + 1 } else { 0 }
}

/// The NAL units of `data`, the last one perhaps cut off.
fn nal_units(data: &[u8], nal_length: usize) -> Vec<&[u8]> {
    let mut units = Vec::new();
    if nal_length > 0 {
        let mut rest = data;
        while rest.len() > nal_length {
            let (length, body) = rest.split_at(nal_length);
            let length = length.iter().fold(0usize, |sum, b| sum << 8 | usize::from(*b));
            units.push(&body[..length.min(body.len())]);
            rest = body.get(length..).unwrap_or_default();
        }
        return units;
    }
    let mut start = None;
    let mut i = 0;
    while i + 3 <= data.len() {
        if data[i..i + 3] == [0, 0, 1] {
            if let Some(start) = start {
                units.push(&data[start..i]);
            }
            start = Some(i + 3);
            i += 3;
        } else {
            i += 1;
        }
    }
    units.extend(start.map(|start| &data[start..]));
    units
}

fn h264(units: &[&[u8]]) -> bool {
    let mut recovery = None;
    let (mut slices, mut idr) = (0, false);
    for unit in units {
        let Some(header) = unit.first() else { continue };
        match header & 0x1f {
            6 => recovery = recovery.or_else(|| recovery_frames(&unit[1..])),
            kind @ (1 | 2 | 5) => {
                let body = unescape(&unit[1..], 16);
                let mut bits = Bits::new(&body);
                let intra = bits
                    .exp_golomb()
                    .and_then(|_first_macroblock| bits.exp_golomb())
                    .is_some_and(|slice_type| matches!(slice_type % 5, 2 | 4));
                // A damaged IDR picture may hold other slices.
                if !intra {
                    return false;
                }
                idr |= kind == 5;
                slices += 1;
            }
            _ => {}
        }
    }
    slices > 0 && (idr || recovery.unwrap_or(0) == 0)
}

/// `recovery_frame_cnt` of a recovery point SEI among the messages of `body`.
fn recovery_frames(body: &[u8]) -> Option<u32> {
    let body = unescape(body, 4096);
    let mut rest = body.as_slice();
    let varying = |rest: &mut &[u8]| -> Option<usize> {
        let mut value = 0usize;
        loop {
            let (byte, tail) = rest.split_first()?;
            *rest = tail;
            value += usize::from(*byte);
            if *byte != 0xff {
                return Some(value);
            }
        }
    };
    while rest.len() > 2 {
        let kind = varying(&mut rest)?;
        let size = varying(&mut rest)?;
        if kind == 6 {
            return Bits::new(rest).exp_golomb();
        }
        rest = rest.get(size..)?;
    }
    None
}

fn hevc(units: &[&[u8]]) -> bool {
    units
        .iter()
        .filter_map(|unit| unit.first())
        .map(|header| (header >> 1) & 0x3f)
        .find(|kind| *kind < 32)
        // BLA, IDR and CRA.
        .is_some_and(|kind| (16..=21).contains(&kind))
}

fn vp9(data: &[u8]) -> Option<bool> {
    let mut bits = Bits::new(data);
    if bits.take(2)? != 2 {
        return None;
    }
    let profile = bits.take(1)? | bits.take(1)? << 1;
    if profile == 3 {
        bits.take(1)?;
    }
    let show_existing_frame = bits.take(1)? == 1;
    let is_inter = bits.take(1)? == 1;
    Some(!show_existing_frame && !is_inter)
}

fn av1(data: &[u8]) -> Option<bool> {
    let mut rest = data;
    let mut sequence = false;
    while let Some((header, tail)) = rest.split_first() {
        let kind = (header >> 3) & 15;
        rest = tail.get(usize::from(header & 4 != 0)..)?;
        let size = if header & 2 != 0 { leb128(&mut rest)? } else { rest.len() };
        match kind {
            1 => sequence = true,
            3 | 6 => {
                let mut bits = Bits::new(rest);
                let show_existing_frame = bits.take(1)? == 1;
                let kind = bits.take(2)?;
                let show_frame = bits.take(1)? == 1;
                return Some(sequence && !show_existing_frame && kind == 0 && show_frame);
            }
            _ => {}
        }
        rest = rest.get(size..)?;
    }
    None
}

fn leb128(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0usize;
    for shift in 0..5 {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= usize::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What follows the first start code of this kind.
fn after_start_code(data: &[u8], kind: u8) -> Option<&[u8]> {
    let at = data.windows(4).position(|w| w == [0, 0, 1, kind])?;
    data.get(at + 4..)
}

/// The first `limit` bytes of `data` without emulation prevention bytes (0, 0, 3).
fn unescape(data: &[u8], limit: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len().min(limit));
    let mut zeros = 0;
    for &byte in data {
        if out.len() == limit {
            break;
        }
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.data.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.take(1)? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        u32::try_from((1u64 << zeros) - 1 + u64::from(self.take(zeros)?)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const H264: AVCodecID = AVCodecID::AV_CODEC_ID_H264;

    fn annex_b(units: &[&[u8]]) -> Vec<u8> {
        units.iter().flat_map(|unit| [&[0, 0, 0, 1], *unit].concat()).collect()
    }

    #[test]
    fn an_idr_is_an_entry_and_a_recovery_point_of_an_intra_refresh_is_not() {
        let idr: &[u8] = &[0x65, 0x88];
        // first_mb 0 (1), slice_type 7 (0001000): an I slice; 5 (00110): a P slice.
        let intra: &[u8] = &[0x41, 0b1000_1000];
        let inter: &[u8] = &[0x41, 0b1001_1000];
        let damaged_idr: &[u8] = &[0x65, 0b1001_1000];
        // A recovery point: kind 6, size 1, recovery_frame_cnt 0 (1) or 4 (00101).
        let recovers_now: &[u8] = &[6, 6, 1, 0b1100_0000, 0x80];
        let recovers_later: &[u8] = &[6, 6, 1, 0b0010_1000, 0x80];
        assert_eq!(check(H264, 0, &annex_b(&[&[9, 0xf0], idr])), Entry::Yes);
        assert_eq!(check(H264, 0, &annex_b(&[recovers_now, intra])), Entry::Yes);
        assert_eq!(check(H264, 0, &annex_b(&[intra])), Entry::Yes);
        assert_eq!(check(H264, 0, &annex_b(&[recovers_later, intra])), Entry::No);
        assert_eq!(check(H264, 0, &annex_b(&[recovers_now, inter])), Entry::No);
        assert_eq!(check(H264, 0, &annex_b(&[intra, inter])), Entry::No);
        let prefixed = [&[0, 0, 0, 2], idr].concat();
        assert_eq!(check(H264, 4, &prefixed), Entry::Yes);
        assert_eq!(check(H264, 0, &annex_b(&[damaged_idr])), Entry::No);
        assert_eq!(check(H264, 0, &annex_b(&[idr, damaged_idr])), Entry::No);
        assert_eq!(check(H264, 4, &[]), Entry::No);
    }

    #[test]
    fn pictures_of_other_codecs() {
        let hevc = |kind: u8| check(AVCodecID::AV_CODEC_ID_HEVC, 0, &[0, 0, 1, kind << 1, 1, 0]);
        assert_eq!((hevc(19), hevc(21), hevc(1)), (Entry::Yes, Entry::Yes, Entry::No));
        let mpeg2 = |coding: u8| {
            check(AVCodecID::AV_CODEC_ID_MPEG2VIDEO, 0, &[0, 0, 1, 0, 0, coding << 3, 0])
        };
        assert_eq!((mpeg2(1), mpeg2(2)), (Entry::Yes, Entry::No));
        let mpeg4 =
            |coding: u8| check(AVCodecID::AV_CODEC_ID_MPEG4, 0, &[0, 0, 1, 0xb6, coding << 6]);
        assert_eq!((mpeg4(0), mpeg4(1)), (Entry::Yes, Entry::No));
        let vp9 = |inter: u8| check(AVCodecID::AV_CODEC_ID_VP9, 0, &[0b1000_0000 | inter << 2]);
        assert_eq!((vp9(0), vp9(1)), (Entry::Yes, Entry::No));
        // Temporal delimiter, sequence header, then a frame: key and shown, or not key.
        let av1 =
            |head: u8| check(AVCodecID::AV_CODEC_ID_AV1, 0, &[0x12, 0, 0x0a, 1, 0, 0x32, 1, head]);
        assert_eq!((av1(0b0001_0000), av1(0b0011_0000)), (Entry::Yes, Entry::No));
    }

    #[test]
    fn length_fields_are_told_from_start_codes() {
        assert_eq!(nal_length(H264, &[1, 0x64, 0, 0x1f, 0xff, 0xe1]), 4);
        assert_eq!(nal_length(H264, &[0, 0, 0, 1, 0x67, 0x64]), 0);
        assert_eq!(nal_length(H264, &[]), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..200), length in 0usize..5) {
            for codec in [
                H264,
                AVCodecID::AV_CODEC_ID_HEVC,
                AVCodecID::AV_CODEC_ID_VP9,
                AVCodecID::AV_CODEC_ID_AV1,
                AVCodecID::AV_CODEC_ID_MPEG4,
                AVCodecID::AV_CODEC_ID_MPEG2VIDEO,
            ] {
                let _: Entry = check(codec, length, &data);
            }
        }
    }
}
