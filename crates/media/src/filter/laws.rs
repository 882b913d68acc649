//! What every filter of the table must keep, and every row of the graph allow list.

use frameloom_core::catalogue::Footprint;
use frameloom_core::frame_task::{FILTER, is_about_things, stretches};
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::plan::PlannedFilter;
use frameloom_core::slot::FrameNumber;
use frameloom_core::spec::OnError;
use frameloom_core::time::TimeBase;
use frameloom_core::{Error, ErrorKind, Result};

use super::table::rows;
use super::{Back, Chain, Elsewhere, Exchange, Files, Parts, Spread, graph_lists, plan_chain};
use crate::frame::{Frame, FrameFormat, PixelFormat};
use crate::{FrameRunner, frame_file};

const FRAMES: i64 = 12;

/// Gives each frame back as it went.
#[derive(Default)]
struct Echo(std::collections::BTreeMap<FrameNumber, std::fs::File>);

impl Elsewhere for Echo {
    fn away(&mut self, frame: FrameNumber) -> Result<std::fs::File> {
        let file = tempfile::tempfile().unwrap();
        self.0.insert(frame, file.try_clone().unwrap());
        Ok(file)
    }

    fn gone(&mut self, frame: FrameNumber) -> Result<()> {
        assert!(self.0.contains_key(&frame), "a frame went that was never away");
        Ok(())
    }

    fn back(&mut self, frame: FrameNumber) -> Result<Back> {
        let mut file = self.0.remove(&frame).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        Ok(Back::Done(file))
    }
}

fn echo() -> Exchange {
    std::sync::Arc::new(std::sync::Mutex::new(Echo::default()))
}

fn format(pixel: PixelFormat, width: u32, height: u32) -> FrameFormat {
    FrameFormat::plain(pixel, (width, height), TimeBase::new(1, 25).unwrap(), "tv")
}

/// A frame of moving noise over a gradient; with `padded` its planes begin within wider ones.
fn frame(format: &FrameFormat, pts: i64, seed: u64, padded: bool) -> Frame {
    let margin = if padded { 4 } else { 0 };
    let (width, height) = (format.width + 2 * margin, format.height + 2 * margin);
    let mut frame = Frame::new(format.pixel, width, height).unwrap();
    for plane in 0..format.pixel.planes() {
        let (sx, sy) = format.pixel.shift(plane);
        let to = frame.plane_mut(plane).unwrap();
        for y in 0..to.height {
            for x in 0..to.width {
                // The same sample at the same place of the picture, padded or not.
                let (px, py) = (
                    (x as u64).wrapping_sub(u64::from(margin >> sx)),
                    (y as u64).wrapping_sub(u64::from(margin >> sy)),
                );
                let mut v = px
                    .wrapping_mul(0x9e37_79b9)
                    .wrapping_add(py.wrapping_mul(0x85eb_ca6b))
                    .wrapping_add(pts.unsigned_abs().wrapping_mul(0xc2b2_ae35))
                    .wrapping_add(seed.wrapping_mul(0x27d4_eb2f))
                    .wrapping_add(plane as u64 * 77);
                v = (v ^ (v >> 15)).wrapping_mul(0x2c1b_3c6d);
                v = (v ^ (v >> 12)) & 63;
                let base = px.wrapping_mul(3).wrapping_add(py.wrapping_mul(2)) & 127;
                to.bytes[y * to.stride + x] = u8::try_from(32 + base + v).unwrap();
            }
        }
    }
    let raw = frame.raw_mut();
    raw.pts = pts;
    raw.color_range = ffmpeg_next::ffi::AVColorRange::AVCOL_RANGE_MPEG;
    if padded {
        raw.crop_left = margin as usize;
        raw.crop_right = margin as usize;
        raw.crop_top = margin as usize;
        raw.crop_bottom = margin as usize;
        // SAFETY: the cropping lies within the frame.
        let code = unsafe { ffmpeg_next::ffi::av_frame_apply_cropping(frame.as_mut_ptr(), 1) };
        assert!(code >= 0);
    }
    frame
}

fn samples(frame: &Frame) -> Vec<u8> {
    let pixel = frame.pixel().unwrap();
    let mut all = Vec::new();
    for plane in 0..pixel.planes() {
        let plane = frame.plane(plane).unwrap();
        for y in 0..plane.height {
            all.extend(&plane.bytes[y * plane.stride..y * plane.stride + plane.width]);
        }
    }
    all
}

/// `(pts, samples)` of what comes out of `spec` for frames `from..to`; `None` where the filter
/// does not take such frames.
fn run(
    spec: &FilterSpec,
    format: &FrameFormat,
    from: i64,
    to: i64,
    make: impl Fn(i64) -> Frame,
) -> Option<Vec<(i64, Vec<u8>)>> {
    let planned = plan_chain(std::slice::from_ref(spec), format);
    let (filters, output, _) = match planned {
        Ok(planned) => planned,
        Err(error) => {
            let fits = matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported);
            assert!(fits, "{spec}: {error}");
            return None;
        }
    };
    let (echo, files) = (echo(), Files::default());
    let parts = Parts { exchange: Some(&echo), ..Parts::alone(&files) };
    let mut chain = Chain::new(&filters, format, &parts).unwrap();
    let mut out = Vec::new();
    (from..to).for_each(|pts| chain.push(make(pts), &mut out).unwrap());
    chain.finish(&mut out).unwrap();
    for (frame, times) in &out {
        assert_eq!(frame.pixel().unwrap(), output.pixel, "{spec}");
        assert_eq!((frame.width(), frame.height()), (output.width, output.height), "{spec}");
        assert_eq!(times.len(), 1);
    }
    Some(out.iter().map(|(frame, _)| (frame.pts(), samples(frame))).collect())
}

/// Filters each frame by itself, with no more than the neighbours that it needs.
struct Others {
    runner: FrameRunner,
    filters: Vec<PlannedFilter>,
    input: FrameFormat,
    written: Vec<std::fs::File>,
}

impl Elsewhere for Others {
    fn away(&mut self, frame: FrameNumber) -> Result<std::fs::File> {
        assert_eq!((frame.filter, frame.number), (0, self.written.len() as u64));
        let file = tempfile::tempfile().unwrap();
        self.written.push(file.try_clone().unwrap());
        Ok(file)
    }

    fn gone(&mut self, _: FrameNumber) -> Result<()> {
        Ok(())
    }

    fn back(&mut self, frame: FrameNumber) -> Result<Back> {
        let needs = self.filters[0].footprint;
        let at = usize::try_from(frame.number).unwrap();
        let first = at.saturating_sub(needs.before() as usize);
        let behind = (at + 1 + needs.after() as usize).min(self.written.len());
        let rewound = |file: &std::fs::File| {
            let mut file = file.try_clone().unwrap();
            std::io::Seek::rewind(&mut file).unwrap();
            file
        };
        let frames: Vec<_> = self.written[first..behind].iter().map(rewound).collect();
        let mut made = Vec::new();
        for at in [at - first; 2] {
            let frames: Vec<_> = frames.iter().map(rewound).collect();
            let heads: Vec<_> = frames.iter().map(|f| frame_file::read_head(f).unwrap()).collect();
            // The second one has the filters that the first one has left, or new ones.
            made.push(self.runner.filter(&self.filters, &self.input, &heads, &frames, at)?);
        }
        assert!(samples(&made[0]) == samples(&made[1]), "a frame done twice is another one");
        let file = tempfile::tempfile().unwrap();
        frame_file::write(&made[0], 0.0, &file).unwrap();
        Ok(Back::Done(rewound(&file)))
    }
}

/// Whether `spec` can be done a frame at a time; then it gives the same as in order.
fn away_is_here(spec: &FilterSpec, format: &FrameFormat) -> bool {
    let Ok((filters, ..)) = plan_chain(std::slice::from_ref(spec), format) else { return false };
    if stretches(&filters, &format.picture()).is_empty() {
        return false;
    }
    let files = Files::default();
    let here = Chain::new(&filters, format, &Parts::alone(&files)).unwrap();
    let others = Others {
        runner: FrameRunner::default(),
        filters: filters.clone(),
        input: format.clone(),
        written: Vec::new(),
    };
    let others: Exchange = std::sync::Arc::new(std::sync::Mutex::new(others));
    let spread = Spread { bytes: 0, on_error: OnError::Fail };
    let parts = Parts { exchange: Some(&others), spread: Some(spread), ..Parts::alone(&files) };
    let away = Chain::new(&filters, format, &parts).unwrap();
    assert_eq!(away.output(), here.output(), "{spec}");
    let [here, away] = [here, away].map(|mut chain| {
        let mut out = Vec::new();
        (0..FRAMES).for_each(|pts| chain.push(frame(format, pts, 1, false), &mut out).unwrap());
        chain.finish(&mut out).unwrap();
        let told = |frame: &Frame| {
            let raw = frame.raw();
            let fields = (raw.interlaced_frame, raw.top_field_first);
            (frame.pts(), crate::color::of_frame(raw), fields, samples(frame))
        };
        out.iter().map(|(frame, _)| told(frame)).collect::<Vec<_>>()
    });
    assert!(here == away, "{spec}: a frame done by itself is another one");
    true
}

/// Frames that go away and come back so.
struct ComesBack(fn() -> Result<Back>);

impl Elsewhere for ComesBack {
    fn away(&mut self, _: FrameNumber) -> Result<std::fs::File> {
        Ok(tempfile::tempfile().unwrap())
    }

    fn gone(&mut self, _: FrameNumber) -> Result<()> {
        Ok(())
    }

    fn back(&mut self, _: FrameNumber) -> Result<Back> {
        (self.0)()
    }
}

#[test]
fn only_a_frame_that_cannot_be_done_is_left_out_and_a_store_that_cannot_be_read_is_told() {
    let run = |filter: &str, back| {
        let format = format(PixelFormat::Yuv420p, 64, 48);
        let (filters, ..) = plan_chain(&[filter.parse().unwrap()], &format).unwrap();
        let others: Exchange = std::sync::Arc::new(std::sync::Mutex::new(ComesBack(back)));
        let (files, spread) = (Files::default(), Spread { bytes: 0, on_error: OnError::Skip });
        let parts = Parts { exchange: Some(&others), spread: Some(spread), ..Parts::alone(&files) };
        let mut chain = Chain::new(&filters, &format, &parts).unwrap();
        let mut out = Vec::new();
        chain.push(frame(&format, 0, 1, false), &mut out).and_then(|()| chain.finish(&mut out))
    };
    let failed = || Ok(Back::Failed(Error::invalid("the function failed")));
    let unread = || Err(Error::unavailable("the store does not answer"));
    // Its descriptor cannot be read.
    let closed = || {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        Ok(Back::Done(std::fs::OpenOptions::new().append(true).open(&path).unwrap()))
    };
    let cut_off = || Ok(Back::Done(tempfile::tempfile().unwrap()));
    for filter in ["blur", "celery:task=t:queue=q:on_error=skip"] {
        run(filter, failed).unwrap();
        for back in [unread, closed] {
            let error = run(filter, back).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{filter}: {error}");
        }
    }
    // Nodes write whole frames, and a function what it likes.
    assert_eq!(run("blur", cut_off).unwrap_err().kind(), ErrorKind::Unavailable);
    run("celery:task=t:queue=q:on_error=skip", cut_off).unwrap();
}

#[test]
fn a_frame_done_by_itself_is_that_of_its_order() {
    let sequential = |spec: &FilterSpec| footprint(spec) == Footprint::Sequential;
    for spec in specs() {
        for pixel in PixelFormat::EIGHT_BIT {
            let done = away_is_here(&spec, &format(pixel, 64, 48));
            // The example of crop is larger than the picture.
            let other = sequential(&spec)
                || [FILTER, "crop"].contains(&spec.name.as_str())
                || is_about_things(&spec.name);
            assert!(done || other, "{spec}");
        }
    }
    let windows = graph_lists::WINDOW.iter().map(|(name, ..)| *name);
    for name in graph_lists::PER_FRAME.iter().copied().chain(windows) {
        let args = NEEDED.iter().find(|(known, _)| *known == name).map_or("", |(_, args)| args);
        let graph = if args.is_empty() { name.to_owned() } else { format!("{name}={args}") };
        let spec: FilterSpec = format!("ffmpeg:{graph}").parse().unwrap();
        assert!(away_is_here(&spec, &format(PixelFormat::Yuv420p, 64, 48)), "{spec}");
    }
}

fn footprint(spec: &FilterSpec) -> Footprint {
    let params = super::catalogue().check(spec).unwrap();
    (super::table::row(&spec.name).unwrap().footprint)(&params).unwrap()
}

/// Runs `spec` cut in the middle, each part with its halo, and whole.
fn cut_is_whole(spec: &FilterSpec, format: &FrameFormat) -> bool {
    let make = |pts| frame(format, pts, 1, false);
    let Some(whole) = run(spec, format, 0, FRAMES, make) else { return false };
    let times: Vec<i64> = whole.iter().map(|(pts, _)| *pts).collect();
    assert_eq!(times, (0..FRAMES).collect::<Vec<_>>(), "{spec}: frames or times were lost");
    let footprint = footprint(spec);
    if footprint == Footprint::Sequential {
        return true;
    }
    let (before, after) = (i64::from(footprint.before()), i64::from(footprint.after()));
    for border in [1, 5, 8] {
        let first = run(spec, format, 0, (border + after).min(FRAMES), make).unwrap();
        let second = run(spec, format, (border - before).max(0), FRAMES, make).unwrap();
        let joined: Vec<_> = first
            .into_iter()
            .filter(|(pts, _)| *pts < border)
            .chain(second.into_iter().filter(|(pts, _)| *pts >= border))
            .collect();
        assert!(joined == whole, "{spec}: cut at {border} is not whole");
    }
    true
}

fn specs() -> Vec<FilterSpec> {
    let listed = rows().filter(|row| !row.info.name.starts_with("test-"));
    let mut specs: Vec<FilterSpec> =
        listed.clone().map(|row| row.info.example.parse().unwrap()).collect();
    for row in listed {
        if row.info.params.iter().any(|param| param.name == "roi") {
            specs.push(format!("{}:roi=25%,25%,50%,50%", row.info.name).parse().unwrap());
        }
    }
    for more in [
        "edges:overlay=true",
        "denoise:frames=5",
        "crop:w=5:h=3:x=1:y=1",
        "scale:h=8",
        "motion:method=diff:action=boxes",
        "motion:method=diff:action=highlight:width=32",
        "motion:method=flow:action=mask",
    ] {
        specs.push(more.parse().unwrap());
    }
    specs
}

#[test]
fn every_example_is_taken_and_unknown_parameters_are_not() {
    let format = format(PixelFormat::Yuv420p, 1280, 720);
    for spec in specs() {
        plan_chain(std::slice::from_ref(&spec), &format).unwrap();
        if spec.name != "ffmpeg" {
            let wrong: FilterSpec = format!("{}:nonsense=1", spec.name).parse().unwrap();
            let error = plan_chain(&[wrong], &format).unwrap_err();
            assert!(error.message().contains("nonsense"), "{error}");
        }
    }
}

#[test]
fn cut_is_whole_in_every_format_and_size() {
    for spec in specs() {
        for pixel in PixelFormat::EIGHT_BIT {
            for (width, height) in [(1, 1), (2, 2), (7, 5), (33, 17), (64, 48)] {
                let done = cut_is_whole(&spec, &format(pixel, width, height));
                assert!(done || (width, height) != (64, 48) || spec.name == "crop", "{spec}");
            }
        }
    }
}

#[test]
fn strides_and_places_of_planes_change_nothing() {
    for spec in specs() {
        for pixel in PixelFormat::EIGHT_BIT {
            let format = format(pixel, 34, 18);
            let plain = run(&spec, &format, 0, 4, |pts| frame(&format, pts, 1, false));
            let padded = run(&spec, &format, 0, 4, |pts| frame(&format, pts, 1, true));
            assert!(plain == padded, "{spec} in {}", pixel.name());
        }
    }
}

#[test]
fn a_frame_outside_the_footprint_changes_nothing() {
    let format = format(PixelFormat::Yuv420p, 32, 16);
    for spec in specs() {
        let footprint = footprint(&spec);
        if footprint == Footprint::Sequential {
            continue;
        }
        let (before, after) = (i64::from(footprint.before()), i64::from(footprint.after()));
        let changed = 6;
        let make = |other| {
            let format = &format;
            move |pts| frame(format, pts, if pts == changed { other } else { 1 }, false)
        };
        let Some(a) = run(&spec, &format, 0, FRAMES, make(1)) else { continue };
        let b = run(&spec, &format, 0, FRAMES, make(2)).unwrap();
        for ((pts, a), (_, b)) in a.iter().zip(&b) {
            let reached = *pts >= changed - after && *pts <= changed + before;
            assert!(reached || a == b, "{spec}: frame {pts} was changed by frame {changed}");
        }
    }
}

/// Two pipelines that must give the same samples, but for so many levels.
fn same(ours: &str, theirs: &str, levels: u8) {
    let format = format(PixelFormat::Yuv420p, 64, 48);
    let of = |spec: &str| {
        let spec: FilterSpec = spec.parse().unwrap();
        run(&spec, &format, 0, 3, |pts| frame(&format, pts, 1, false)).unwrap()
    };
    for ((_, a), (_, b)) in of(ours).iter().zip(&of(theirs)) {
        assert_eq!(a.len(), b.len(), "{ours}");
        let worst = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= levels, "{ours} differs from {theirs} by {worst}");
    }
}

#[test]
fn filters_equal_what_their_documentation_cites_of_ffmpeg() {
    same("gray", "ffmpeg:hue=s=0", 0);
    same("invert", "ffmpeg:negate", 0);
    same("levels:contrast=1.3:brightness=0.1", "ffmpeg:eq=contrast=1.3:brightness=0.1", 1);
    same("levels:gamma=1.6", "ffmpeg:eq=gamma=1.6", 1);
    same("crop:w=20:h=10:x=3:y=5", "ffmpeg:crop=20:10:3:5", 0);
    same("crop:w=20:h=10", "ffmpeg:crop=20:10", 0);
    same("scale:w=32:h=20", "ffmpeg:scale=32:20:flags=bicubic+accurate_rnd+full_chroma_int", 1);
    // FFmpeg's Gaussian is a recursive approximation; away from the border they agree nearly.
    same("levels", "ffmpeg:null", 0);
}

/// Options that a filter of the allow list needs, or without which it would do nothing.
const NEEDED: &[(&str, &str)] = &[
    ("geq", "lum='p(X,Y)/2'"),
    ("pad", "80:60:4:4"),
    ("rotate", "0.5"),
    ("scale", "32:24"),
    ("eq", "contrast=1.5"),
    ("hue", "h=30"),
    ("crop", "32:24"),
    ("drawbox", "4:4:20:10"),
    ("colorspace", "all=bt709:iall=bt601-6-625"),
    ("setparams", "range=tv"),
    ("format", "yuv420p"),
    ("noformat", "gray"),
    ("v360", "e:flat"),
    ("convolution", "0 -1 0 -1 5 -1 0 -1 0"),
    ("curves", "preset=vintage"),
    ("zscale", "32:24"),
    ("perspective", "x0=2:y0=2"),
    ("lutyuv", "y=negval"),
    ("lut", "c0=negval"),
    ("yadif", "mode=0"),
    ("bwdif", "mode=0"),
    ("estdif", "mode=frame"),
    ("fillborders", "left=4"),
    ("lenscorrection", "k1=0.1"),
    ("boxblur", "2"),
];

#[test]
fn every_row_of_the_graph_allow_list_is_cut_as_it_is_whole() {
    let format = format(PixelFormat::Yuv420p, 64, 48);
    let windows = graph_lists::WINDOW.iter().map(|(name, ..)| *name);
    let (mut untried, mut differ) = (Vec::new(), Vec::new());
    for name in graph_lists::PER_FRAME.iter().copied().chain(windows) {
        let args = NEEDED.iter().find(|(known, _)| *known == name).map_or("", |(_, args)| args);
        let graph = if args.is_empty() { name.to_owned() } else { format!("{name}={args}") };
        let spec: FilterSpec = format!("ffmpeg:{graph}").parse().unwrap();
        match std::panic::catch_unwind(|| cut_is_whole(&spec, &format)) {
            Ok(true) => {}
            Ok(false) => untried.push(name),
            Err(_) => differ.push(name),
        }
    }
    assert!(differ.is_empty(), "rows whose frames differ when cut: {differ:?}");
    assert!(untried.is_empty(), "rows that were not tried: {untried:?}");
}

#[test]
fn what_goes_by_places_comes_before_what_may_move_them() {
    let planned = |filters: [&str; 2]| {
        let filters = filters.map(|text| text.parse().unwrap());
        plan_chain(&filters, &format(PixelFormat::Yuv420p, 320, 180)).map(drop)
    };
    for first in ["ffmpeg:hflip", "celery:task=a.b:queue=q"] {
        for then in ["faces:action=blur", "regions:file=x.jsonl:action=blur"] {
            let error = planned([first, then]).unwrap_err();
            assert!(error.message().contains("it must come before"), "{first}, {then}: {error}");
            planned([then, first]).unwrap();
        }
    }
    planned(["celery:task=a.b:queue=q:moves=false", "faces:action=blur"]).unwrap();
}
