//! YOLOs that users bring: their kinds are told apart by the shapes of their outputs.
//!
//! | output | kind | a box |
//! |---|---|---|
//! | 1×N×(5+C), N cells of strides 8, 16, 32 | YOLOX, its raw grid | offsets in cells, logarithms of sizes, score of a thing, scores of classes |
//! | 1×N×(5+C), 3 N | YOLOv5 | middle and size in pixels, score of a thing, scores of classes |
//! | 1×(4+C)×N | YOLOv8, YOLO11 | middle and size in pixels, scores of classes; columns, not rows |

use frameloom_core::detection::Found;
use frameloom_core::{Error, Result};

use super::decode::{found, suppress, surest};
use super::input::Recipe;
use super::net::Output;

/// What of two things may overlap, as intersection over union.
const OVERLAP: f32 = 0.45;

/// Side of the input where a model leaves it free and nobody asks for one.
const DEFAULT_SIDE: u32 = 640;

const STRIDES: [u32; 3] = [8, 16, 32];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    X,
    V5,
    V8,
}

/// How a user's model is read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Yolo {
    kind: Kind,
    output: String,
    classes: usize,
    rows: usize,
    size: (u32, u32),
}

/// The input's size, of what the model says and what was asked for.
///
/// # Errors
/// Unsupported where the input is no picture; Invalid where another size is asked for than the model's.
pub(super) fn input_size(
    name: &str,
    shape: Vec<i64>,
    asked: Option<(u32, u32)>,
) -> Result<(u32, u32)> {
    let odd = || {
        Error::unsupported(format!(
            "model '{name}' takes {}; a detector takes one picture, 1×3×H×W, H and W multiples of 32",
            sides(&shape)
        ))
    };
    let [batch, 3 | -1, height, width] = shape[..] else { return Err(odd()) };
    if !matches!(batch, 1 | -1) {
        return Err(odd());
    }
    let side = |fixed: i64, asked: Option<u32>| match (u32::try_from(fixed), asked) {
        (Ok(fixed), Some(asked)) if fixed != asked => Err(Error::invalid(format!(
            "size: model '{name}' looks at {width}x{height} only; leave size out"
        ))),
        (Ok(fixed), _) => Ok(fixed),
        (Err(_), asked) => Ok(asked.unwrap_or(DEFAULT_SIDE)),
    };
    let size = (side(width, asked.map(|size| size.0))?, side(height, asked.map(|size| size.1))?);
    super::check_size(size).map_err(|_| odd())?;
    Ok(size)
}

/// A shape in words.
fn sides<T: ToString>(shape: &[T]) -> String {
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("×")
}

impl Yolo {
    /// The kind of a model by its outputs' names and shapes.
    ///
    /// # Errors
    /// Unsupported with what the model gives and what is known.
    pub(super) fn of_shapes(
        name: &str,
        outputs: &[(String, Vec<usize>)],
        size: (u32, u32),
    ) -> Result<Self> {
        let cells: usize =
            STRIDES.iter().map(|s| (size.0 / s) as usize * (size.1 / s) as usize).sum();
        for (output, shape) in outputs {
            let (kind, rows, classes) = match shape[..] {
                [1, rows, columns] if rows == cells && columns > 5 => (Kind::X, rows, columns - 5),
                [1, rows, columns] if rows == 3 * cells && columns > 5 => {
                    (Kind::V5, rows, columns - 5)
                }
                [1, columns, rows] if rows == cells && columns > 4 => (Kind::V8, rows, columns - 4),
                _ => continue,
            };
            return Ok(Self { kind, output: output.clone(), classes, rows, size });
        }
        let given: Vec<String> = outputs.iter().map(|(_, shape)| sides(shape)).collect();
        Err(Error::unsupported(format!(
            "model '{name}' gives {}, which is none of YOLOX's 1×{cells}×(5+C), YOLOv5's 1×{}×(5+C) and YOLOv8's \
             1×(4+C)×{cells} at {}x{}",
            if given.is_empty() { "no floats".into() } else { given.join(", ") },
            3 * cells,
            size.0,
            size.1
        )))
    }

    /// How many classes it has.
    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    /// How it wants its picture.
    pub(super) fn recipe(&self) -> Recipe {
        if self.kind == Kind::X { Recipe::YOLOX } else { Recipe::YOLO }
    }

    /// What it found of the classes that are `wanted`, all where none is named, in pixels of its input.
    ///
    /// # Errors
    /// Corrupt or Unsupported where its numbers make no boxes.
    pub(super) fn decode(
        &self,
        outputs: &[Output<'_>],
        floor: f32,
        wanted: &[u16],
    ) -> Result<Vec<Found>> {
        let columns = self.classes + if self.kind == Kind::V8 { 4 } else { 5 };
        let values = outputs
            .iter()
            .find(|output| output.name == self.output)
            .map(|output| output.values)
            .filter(|values| values.len() == self.rows * columns)
            .ok_or_else(|| Error::unsupported("its output has another shape than before"))?;
        let at = |row: usize, column: usize| match self.kind {
            Kind::V8 => values[column * self.rows + row],
            Kind::X | Kind::V5 => values[row * columns + column],
        };
        let mut boxes = Vec::new();
        let mut grid = self.grid();
        for row in 0..self.rows {
            let cell = grid.next();
            let first = columns - self.classes;
            let thing = if self.kind == Kind::V8 { 1.0 } else { at(row, 4) };
            let scores = (first..columns).map(|column| at(row, column));
            let Some((class, score)) = surest(scores, wanted) else { continue };
            let score = thing * score;
            if score < floor {
                continue;
            }
            let [mut x, mut y, mut w, mut h] = [0, 1, 2, 3].map(|column| at(row, column));
            if self.kind == Kind::X {
                let Some((column, line, stride)) = cell else { continue };
                (x, y) = ((x + column) * stride, (y + line) * stride);
                (w, h) = (w.exp() * stride, h.exp() * stride);
            }
            let corners = [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0];
            boxes.push(found(corners, score, class)?);
        }
        Ok(suppress(boxes, OVERLAP))
    }

    /// The cells of YOLOX: column, line and stride.
    fn grid(&self) -> impl Iterator<Item = (f32, f32, f32)> + use<> {
        let size = self.size;
        STRIDES.into_iter().flat_map(move |stride| {
            let (columns, lines) = (size.0 / stride, size.1 / stride);
            #[expect(clippy::cast_precision_loss, reason = "sides of inputs are small")]
            let float = |v: u32| v as f32;
            (0..lines)
                .flat_map(move |y| (0..columns).map(move |x| (float(x), float(y), float(stride))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cells of an input of 64×32: 32, 8 and 2.
    const CELLS: usize = 42;

    fn yolo(shape: &[usize]) -> Result<Yolo> {
        Yolo::of_shapes("m", &[("o".into(), shape.to_vec())], (64, 32))
    }

    fn decode(shape: &[usize], values: &[f32]) -> Result<Vec<Found>> {
        let output = Output { name: "o", shape: shape.to_vec(), values };
        yolo(shape)?.decode(&[output], 0.25, &[])
    }

    fn assert_one(found: &[Found], class: u16, score: f32, [x, y, w, h]: [f32; 4]) {
        let [one] = found else { panic!("{found:?}") };
        assert_eq!(one.class, class);
        let is = [one.rect.x, one.rect.y, one.rect.w, one.rect.h, one.score];
        for (is, wanted) in is.into_iter().zip([x, y, w, h, score]) {
            assert!((is - wanted).abs() < 1e-3, "{one:?}");
        }
    }

    #[test]
    fn kinds_are_told_apart_by_their_outputs() {
        let kind = |shape: &[usize]| yolo(shape).map(|yolo| (yolo.kind, yolo.classes));
        assert_eq!(kind(&[1, CELLS, 85]).unwrap(), (Kind::X, 80));
        assert_eq!(kind(&[1, 3 * CELLS, 7]).unwrap(), (Kind::V5, 2));
        assert_eq!(kind(&[1, 84, CELLS]).unwrap(), (Kind::V8, 80));
        for odd in [&[1, 1000][..], &[1, CELLS, 5], &[2, CELLS, 85], &[1, 300, 6]] {
            let error = kind(odd).unwrap_err();
            assert!(error.message().contains("1×42×(5+C)"), "{error}");
        }
    }

    #[test]
    fn yolox_counts_in_cells() {
        let mut values = vec![0.0; CELLS * 7];
        // Of stride 16, line 1, column 2; and the same thing, less sure, from a cell of stride 8.
        let row = 32 + 4 + 2;
        values[row * 7..][..7].copy_from_slice(&[0.5, -0.25, 2.0_f32.ln(), 0.0, 0.8, 0.1, 0.9]);
        values[(2 * 8 + 5) * 7..][..7].copy_from_slice(&[
            0.0,
            -0.5,
            4.0_f32.ln(),
            2.0_f32.ln(),
            0.5,
            0.0,
            0.8,
        ]);
        let found = decode(&[1, CELLS, 7], &values).unwrap();
        assert_one(&found, 1, 0.72, [24.0, 4.0, 32.0, 16.0]);
    }

    #[test]
    fn yolov5_gives_pixels_in_rows() {
        let mut values = vec![0.0; 3 * CELLS * 7];
        values[100 * 7..][..7].copy_from_slice(&[20.0, 10.0, 8.0, 6.0, 0.5, 0.9, 0.2]);
        values[101 * 7..][..7].copy_from_slice(&[20.0, 10.0, 8.0, 6.0, 0.2, 0.9, 0.2]);
        let found = decode(&[1, 3 * CELLS, 7], &values).unwrap();
        assert_one(&found, 0, 0.45, [16.0, 7.0, 8.0, 6.0]);
    }

    #[test]
    fn yolov8_gives_pixels_in_columns() {
        let mut values = vec![0.0; 6 * CELLS];
        for (column, value) in [20.0, 10.0, 8.0, 6.0, 0.1, 0.7].into_iter().enumerate() {
            values[column * CELLS + 30] = value;
        }
        let found = decode(&[1, 6, CELLS], &values).unwrap();
        assert_one(&found, 1, 0.7, [16.0, 7.0, 8.0, 6.0]);
    }

    #[test]
    fn an_endless_box_is_an_error() {
        let mut values = vec![0.0; CELLS * 7];
        values[..7].copy_from_slice(&[0.0, 0.0, 100.0, 0.0, 1.0, 1.0, 0.0]);
        let error = decode(&[1, CELLS, 7], &values).unwrap_err();
        assert_eq!(error.kind(), frameloom_core::ErrorKind::Corrupt);
    }

    #[test]
    fn the_size_is_the_models_or_the_one_asked_for() {
        let size = |shape: &[i64], asked| input_size("m", shape.to_vec(), asked);
        assert_eq!(size(&[1, 3, 416, 320], None).unwrap(), (320, 416));
        assert_eq!(size(&[-1, 3, -1, -1], None).unwrap(), (640, 640));
        assert_eq!(size(&[1, 3, -1, -1], Some((320, 256))).unwrap(), (320, 256));
        let error = size(&[1, 3, 416, 416], Some((320, 320))).unwrap_err();
        assert!(error.message().contains("416x416 only"), "{error}");
        for odd in [&[1, 1, 64, 64][..], &[4, 3, 64, 64], &[1, 64, 64], &[1, 3, 33, 64]] {
            let error = size(odd, None).unwrap_err();
            assert!(error.message().contains("1×3×H×W"), "{error}");
        }
    }
}
