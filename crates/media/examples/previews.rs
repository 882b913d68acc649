//! What the pictures of a job at work cost: `previews CLIP [ROUNDS [FILTER…]]` processes a clip's segments
//! with them and without, in turn, and compares the CPU time.
#![expect(clippy::print_stdout, reason = "it prints what it measures")]

use std::fs::File;
use std::path::Path;

use frameloom_core::id::{AttemptId, JobId};
use frameloom_core::plan::Plan;
use frameloom_core::slot::{PlanTask, SegmentTask};
use frameloom_core::spec::{Container, EncoderSpec, JobSpec};
use frameloom_core::{Error, Result};
use frameloom_media::{Files, Given, Progress, SegmentRunner};

/// CPU seconds that a clip's segments take, and the pairs of pictures that come of them.
fn process(source: &File, plan: &Plan, job: u32, previews: bool) -> Result<(f64, u32)> {
    let failed = |e: std::io::Error| Error::io("cannot make a file in memory", &e);
    let mut runner = SegmentRunner::new(None);
    let (mut micros, mut pairs) = (0, 0);
    for segment in (0..).take(plan.segments.len()) {
        let out = rustix::fs::memfd_create("segment", rustix::fs::MemfdFlags::CLOEXEC);
        let out = File::from(out.map_err(|e| failed(e.into()))?);
        let task = SegmentTask {
            frame_bytes: 0,
            job: JobId::from_bits(job.into()),
            attempt: AttemptId::from_bits(0),
            segment,
            previews,
            decode_threads: 1,
            files: Vec::new(),
            tracks: false,
            reveals: true,
        };
        let made = runner.run(source, plan, &task, Given::default(), out, &mut |progress| {
            pairs += u32::from(matches!(progress, Progress::Preview(_)));
        })?;
        micros += made.cpu_us;
    }
    #[expect(clippy::cast_precision_loss, reason = "a time, for display")]
    Ok((micros as f64 / 1e6, pairs))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    let middle = all.len() / 2;
    if all.len() % 2 == 1 { all[middle] } else { f64::midpoint(all[middle - 1], all[middle]) }
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let clip = args.next().ok_or_else(|| Error::invalid("give a video file"))?;
    let rounds = args.next().map_or(Ok(5), |text| text.parse::<u32>());
    let rounds = rounds.map_err(|_| Error::invalid("ROUNDS is no number"))?;
    let filters = args.map(|text| text.parse()).collect::<Result<_>>()?;
    frameloom_media::init();
    let source = File::open(&clip).map_err(|e| Error::io(format!("cannot open '{clip}'"), &e))?;
    let spec = JobSpec {
        filters,
        encoder: EncoderSpec::default(),
        container: Container::Mp4,
        no_audio: true,
        ..JobSpec::default()
    };
    let name = Path::new(&clip).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let task = PlanTask { attempt: AttemptId::from_bits(0), name, spec, files: Vec::new() };
    let plan = frameloom_media::make_plan(&source, &task, &Files::default(), &mut |_| {})?;
    let (mut bare, mut with, mut each) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // Who goes first changes: the machine's speed may drift.
        let first = round % 2 == 0;
        let one = process(&source, &plan, 2 * round, first)?;
        let two = process(&source, &plan, 2 * round + 1, !first)?;
        let ((on, pairs), (off, _)) = if first { (one, two) } else { (two, one) };
        println!("round {round}: {on:.2} s with {pairs} pairs of pictures, {off:.2} s without");
        bare.push(off);
        with.push(on);
        each.push((on - off) / f64::from(pairs.max(1)));
    }
    let each = median(each);
    println!("median: {:.2} s with pictures, {:.2} s without", median(with), median(bare));
    println!(
        "a pair costs {:.1} ms of CPU time: two a second are {:.2} % of a slot",
        1000.0 * each,
        200.0 * each
    );
    Ok(())
}
