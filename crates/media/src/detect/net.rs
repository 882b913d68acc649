//! A network in ONNX Runtime: one thread, one operator after the other, the same numbers each time.

use std::panic::{AssertUnwindSafe, catch_unwind};

use frameloom_core::{Error, Result};
use ort::ep::{CUDA, ExecutionProvider as _};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{TensorElementType, TensorRef, ValueType};

use super::{Device, runtime};

/// A tensor that came out.
pub(super) struct Output<'a> {
    /// What the model calls it.
    pub(super) name: &'a str,
    /// Its sides.
    pub(super) shape: Vec<usize>,
    /// Its numbers, all of them finite.
    pub(super) values: &'a [f32],
}

/// A network that is loaded.
pub(super) struct Net {
    name: String,
    session: Session,
}

impl Net {
    /// Loads a model.
    ///
    /// # Errors
    /// Unavailable without ONNX Runtime; Unsupported where it cannot use the model, or has no CUDA and it is asked for.
    pub(super) fn open(name: &str, bytes: &[u8], device: Device) -> Result<Self> {
        let environment = runtime::environment()?;
        let failed = |why: String| {
            Error::unsupported(format!("model '{name}' cannot be used: {}", first_line(&why)))
                .with_source(why)
        };
        let cuda = device != Device::Cpu && CUDA::is_available().unwrap_or(false);
        if device == Device::Cuda && !cuda {
            return Err(no_cuda("is made without CUDA"));
        }
        // The binding panics at types that it does not know.
        let loading = |cuda: bool| {
            let session = catch_unwind(AssertUnwindSafe(|| {
                let mut builder = Session::builder(&environment)?;
                if cuda {
                    let card = CUDA::default().build().error_on_failure();
                    builder = builder.with_execution_providers([card])?;
                }
                options(builder)?.commit_from_memory(bytes)
            }));
            match session {
                Ok(session) => session.map_err(|e| e.to_string()),
                Err(_) => Err("it has inputs or outputs of unknown kinds".into()),
            }
        };
        let session = match loading(cuda) {
            Err(why) if cuda && device == Device::Cuda => {
                return Err(no_cuda("cannot use CUDA here").with_source(why));
            }
            Err(why) if cuda => {
                tracing::warn!(%why, "CUDA cannot be used; the detector runs on the processor");
                loading(false)
            }
            loaded => loaded,
        };
        Ok(Self { name: name.into(), session: session.map_err(failed)? })
    }

    /// The sides of its only input; -1 for those that are free.
    ///
    /// # Errors
    /// Unsupported where it has several, or another one than of floats.
    pub(super) fn input_shape(&self) -> Result<Vec<i64>> {
        let odd = |what: String| {
            Error::unsupported(format!(
                "model '{}' takes {what}; a detector takes one picture, float32 1×3×H×W",
                self.name
            ))
        };
        let [input] = self.session.inputs() else {
            return Err(odd(format!("{} inputs", self.session.inputs().len())));
        };
        match input.dtype() {
            ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => Ok(shape.to_vec()),
            other => Err(odd(format!("{other}"))),
        }
    }

    /// Runs it on one input, and has its outputs of floats read.
    ///
    /// # Errors
    /// Unsupported where it fails; Corrupt where a number that comes out is none; of reading.
    pub(super) fn run<R>(
        &mut self,
        shape: &[usize],
        values: &[f32],
        read: impl FnOnce(&[Output<'_>]) -> Result<R>,
    ) -> Result<R> {
        let name = &self.name;
        let failed = |e: ort::Error| {
            let why = e.to_string();
            Error::unsupported(format!("model '{name}' failed: {}", first_line(&why)))
                .with_source(why)
        };
        let input = TensorRef::from_array_view((shape, values)).map_err(failed)?;
        let ran = self.session.run(ort::inputs![input]).map_err(failed)?;
        let mut outputs = Vec::new();
        for output in ran.keys() {
            let Some(value) = ran.get(output) else { continue };
            if !matches!(value.dtype(), ValueType::Tensor { ty: TensorElementType::Float32, .. }) {
                continue;
            }
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(failed)?;
            let shape = shape.iter().map(|side| usize::try_from(*side).unwrap_or(0)).collect();
            check_finite(name, output, values)?;
            outputs.push(Output { name: output, shape, values });
        }
        read(&outputs)
    }
}

/// How sessions run.
fn options(builder: SessionBuilder) -> ort::Result<SessionBuilder> {
    builder
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_parallel_execution(false)?
        .with_deterministic_compute(true)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(ort::Error::from)
}

/// Whether all numbers are.
fn check_finite(model: &str, output: &str, values: &[f32]) -> Result<()> {
    // Infinities and NaN have all bits of the exponent.
    let odd = values.iter().any(|value| value.to_bits() & 0x7f80_0000 == 0x7f80_0000);
    if odd {
        let count = values.iter().filter(|value| !value.is_finite()).count();
        return Err(Error::corrupt(format!(
            "model '{model}' gave {count} values in '{output}' that are no numbers (NaN or infinite)"
        )));
    }
    Ok(())
}

fn no_cuda(why: &str) -> Error {
    let library =
        runtime::runtime().map_or_else(String::new, |info| info.path.display().to_string());
    Error::unsupported(format!(
        "device 'cuda': ONNX Runtime ('{library}') {why}; leave device out to use the processor, or name a library \
         with CUDA in FRAMELOOM_ONNXRUNTIME"
    ))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_an_error_and_never_a_box() {
        check_finite("m", "o", &[0.0, -1.0, f32::MAX, f32::MIN_POSITIVE / 2.0]).unwrap();
        for odd in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = check_finite("m", "o", &[0.5, odd]).unwrap_err();
            assert_eq!(error.kind(), frameloom_core::ErrorKind::Corrupt);
            assert!(error.message().contains("1 values in 'o'"), "{error}");
        }
    }
}
