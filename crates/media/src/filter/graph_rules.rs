//! Which libavfilter graphs are taken, and what they need. Decided on the graph's text, before
//! FFmpeg makes its filters: some of them open files as soon as they are made.
//!
//! The text is taken apart by the functions that libavfilter takes it apart with, so that there is
//! no second opinion on quotes and escapes.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use ffmpeg_next::ffi;
use frameloom_core::catalogue::{Footprint, did_you_mean};
use frameloom_core::{Error, Result};

use super::graph_lists::{
    FILE_OPTIONS, FILE_WORDS, PER_FRAME, RETIMING, SEQUENTIAL, STATEFUL_WORDS, WINDOW,
};
use crate::ff;

/// A filter of a graph as written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    name: String,
    /// Its options, without the outer level of quotes and escapes.
    options: String,
}

/// A filter's option as given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    key: String,
    value: String,
}

/// A text that FFmpeg's parsers go along.
struct Cursor<'a> {
    rest: &'a CStr,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> u8 {
        self.rest.to_bytes_with_nul()[0]
    }

    /// Passes a byte over; nothing at the end.
    fn skip(&mut self) {
        if self.peek() != 0 {
            // SAFETY: the byte passed is not the last one, so that a C string is left.
            self.rest = unsafe { CStr::from_ptr(self.rest.as_ptr().add(1)) };
        }
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\t' | b'\r') {
            self.skip();
        }
    }

    /// Text up to one of `ends`, a level of quotes and escapes taken off.
    fn token(&mut self, ends: &CStr) -> Result<String> {
        let mut at = self.rest.as_ptr();
        // SAFETY: both are C strings; the position stays within the first; the token is FFmpeg's
        // allocation, copied and freed.
        unsafe {
            let token = ffi::av_get_token(&mut at, ends.as_ptr());
            self.rest = CStr::from_ptr(at);
            taken(token)
        }
    }

    /// The next `key=value` or `value`, and what separates it from a further one.
    fn pair(&mut self) -> Result<(Option<String>, String)> {
        let mut at = self.rest.as_ptr();
        let (mut key, mut value): (*mut c_char, *mut c_char) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: C strings; the position stays within the text; key and value are null or
        // FFmpeg's allocations, copied and freed.
        unsafe {
            let code = ffi::av_opt_get_key_value(
                &mut at,
                c"=".as_ptr(),
                c":".as_ptr(),
                ffi::AV_OPT_FLAG_IMPLICIT_KEY as u32,
                &mut key,
                &mut value,
            );
            ff::check(code, "options")?;
            self.rest = CStr::from_ptr(at);
            let key = if key.is_null() { None } else { Some(taken(key)?) };
            let pair = (key, taken(value)?);
            self.skip();
            Ok(pair)
        }
    }
}

/// Copies a string that FFmpeg allocated, and frees it.
///
/// # Safety
/// `text` is null or an allocated C string that nobody else frees.
#[expect(unsafe_code, reason = "takes over FFmpeg's allocation")]
unsafe fn taken(text: *mut c_char) -> Result<String> {
    if text.is_null() {
        return Err(ff::out_of_memory());
    }
    // SAFETY: by contract.
    unsafe {
        let copy = ff::text(text);
        ffi::av_free(text.cast());
        Ok(copy)
    }
}

/// The filters of a graph, read as libavfilter reads it.
///
/// # Errors
/// Invalid where it could not be read.
fn read(graph: &str) -> Result<Vec<Written>> {
    let wrong = |why: &str| Error::invalid(format!("graph '{graph}': {why}"));
    let text = ff::c_string(graph)?;
    let mut at = Cursor { rest: &text };
    at.blanks();
    if at.rest.to_bytes().starts_with(b"sws_flags=") {
        return Err(wrong("flags for scaling are given to the filter: scale=…:flags=…"));
    }
    let mut filters = Vec::new();
    loop {
        labels(&mut at).map_err(|e| wrong(e.message()))?;
        let name = at.token(c"=,;[")?;
        let mut options = String::new();
        if at.peek() == b'=' {
            at.skip();
            options = at.token(c"[],;")?;
        }
        // A filter may have an instance name: name@id.
        let name = name.split('@').next().unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(wrong("a filter has no name"));
        }
        filters.push(Written { name, options });
        labels(&mut at).map_err(|e| wrong(e.message()))?;
        match at.peek() {
            0 => return Ok(filters),
            b',' | b';' => at.skip(),
            _ => return Err(wrong(&format!("cannot read it from '{}' on", ff_text(at.rest)))),
        }
        at.blanks();
    }
}

fn ff_text(text: &CStr) -> String {
    text.to_string_lossy().into_owned()
}

/// Passes `[labels]` over.
fn labels(at: &mut Cursor<'_>) -> Result<()> {
    at.blanks();
    while at.peek() == b'[' {
        at.skip();
        at.token(c"]")?;
        if at.peek() == 0 {
            return Err(Error::invalid("a label ([) is not closed"));
        }
        at.skip();
        at.blanks();
    }
    Ok(())
}

/// The filters that graphs may hold, by what a graph with one needs.
#[derive(Debug, Clone, Copy)]
pub struct GraphFilters {
    /// One frame for each frame.
    pub per_frame: &'static [&'static str],
    /// Name, and how many frames before and after one.
    pub window: &'static [(&'static str, u32, u32)],
    /// All frames before one: such a graph is not cut.
    pub sequential: &'static [&'static str],
}

/// The libavfilter filters that graphs may hold.
pub fn graph_filters() -> GraphFilters {
    GraphFilters { per_frame: PER_FRAME, window: WINDOW, sequential: SEQUENTIAL }
}

/// What a graph needs.
///
/// # Errors
/// Invalid for a graph that is not taken, with a word on why.
pub(super) fn footprint(graph: &str) -> Result<Footprint> {
    let mut footprint = Footprint::PerFrame;
    for filter in &read(graph)? {
        footprint = footprint.then(check(graph, filter)?);
    }
    Ok(footprint)
}

/// Whether the graph scales without regard to fields.
pub(super) fn mixes_fields(graph: &str) -> Result<bool> {
    Ok(read(graph)?.iter().any(|filter| {
        matches!(filter.name.as_str(), "scale" | "zscale") && !filter.options.contains("interl")
    }))
}

fn check(graph: &str, filter: &Written) -> Result<Footprint> {
    let name = filter.name.as_str();
    let refused = |why: &str| Error::invalid(format!("graph '{graph}': '{name}' {why}"));
    if RETIMING.contains(&name) {
        return Err(refused(
            "changes how many frames there are or when they are shown; a job keeps each frame once, at its time",
        ));
    }
    let class = Class::of(name)?.ok_or_else(|| {
        refused(&format!("is no filter of the installed FFmpeg{}", nearest(name)))
    })?;
    let window = WINDOW.iter().find(|(known, ..)| *known == name);
    if window.is_none() && !PER_FRAME.contains(&name) && !SEQUENTIAL.contains(&name) {
        return Err(refused(
            "is not on the list of filters that take a picture, give one back and reach no file, device or program; \
             docs/filters.md lists them",
        ));
    }
    let options = class.given(&filter.options).map_err(|e| refused(e.message()))?;
    for option in &options {
        if class.names_a_file(name, &option.key).map_err(|e| refused(e.message()))? {
            return Err(refused(&format!(
                "may not be given '{}', which names a file or a device",
                option.key
            )));
        }
    }
    let mode = |wanted: &[&str]| {
        options.iter().rev().find(|o| o.key == "mode").is_some_and(|o| wanted.contains(&&*o.value))
    };
    // By default yadif makes one frame of one, and the two others two.
    let one = ["0", "2", "send_frame", "send_frame_nospatial", "frame"];
    let given = options.iter().any(|o| o.key == "mode");
    if matches!(name, "yadif" | "bwdif" | "estdif") && !mode(&one) && (given || name != "yadif") {
        return Err(refused(
            "makes two frames of one in this mode; give mode=0 (send_frame), which keeps their number",
        ));
    }
    if options.iter().any(|o| is_stateful(&o.value)) {
        return Ok(Footprint::Sequential);
    }
    Ok(match window {
        Some((_, before, after)) => Footprint::Window { before: *before, after: *after },
        None if PER_FRAME.contains(&name) => Footprint::PerFrame,
        None => Footprint::Sequential,
    })
}

/// Whether an option's value counts frames, remembers, or is random.
fn is_stateful(value: &str) -> bool {
    value
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .any(|word| STATEFUL_WORDS.contains(&word))
}

/// A filter's own options.
struct Class(*const ffi::AVClass);

/// One of them. Aliases share a place.
struct Known {
    name: String,
    place: c_int,
}

impl Class {
    /// The options of the filter `name`; `None` where FFmpeg has no such filter.
    fn of(name: &str) -> Result<Option<Self>> {
        let name = ff::c_string(name)?;
        // SAFETY: a C string; null or a static description.
        let filter = unsafe { ffi::avfilter_get_by_name(name.as_ptr()).as_ref() };
        Ok(filter.map(|filter| Self(filter.priv_class)))
    }

    fn known(&self) -> Vec<Known> {
        let mut known = Vec::new();
        if self.0.is_null() {
            return known;
        }
        let object: *const c_void = (&raw const self.0).cast();
        // SAFETY: av_opt_next takes a pointer to a pointer to a class, which is static.
        unsafe {
            let mut option = ffi::av_opt_next(object, ptr::null());
            while let Some(found) = option.as_ref() {
                if found.type_ != ffi::AVOptionType::AV_OPT_TYPE_CONST {
                    known.push(Known { name: ff::text(found.name), place: found.offset });
                }
                option = ffi::av_opt_next(object, option);
            }
        }
        known
    }

    /// Options as libavfilter reads them: those without a key take the names in their order, up to
    /// the first one with a key.
    fn given(&self, text: &str) -> Result<Vec<Given>> {
        let text = ff::c_string(text)?;
        let mut at = Cursor { rest: &text };
        let mut last = None;
        let mut shorthand: VecDeque<String> = self
            .known()
            .into_iter()
            .filter(|known| last.replace(known.place) != Some(known.place))
            .map(|known| known.name)
            .collect();
        let mut given = Vec::new();
        while at.peek() != 0 {
            let (key, value) = at.pair()?;
            let key = match key {
                Some(key) => {
                    shorthand.clear();
                    key
                }
                None => shorthand
                    .pop_front()
                    .ok_or_else(|| Error::invalid(format!("has no place for '{value}'")))?,
            };
            given.push(Given { key, value });
        }
        Ok(given)
    }

    /// Whether the option `key` of the filter `name` is one that names a file, by any of its names.
    ///
    /// # Errors
    /// Invalid where the filter has no such option.
    fn names_a_file(&self, name: &str, key: &str) -> Result<bool> {
        let is_file = |option: &str| {
            FILE_WORDS.iter().any(|word| option.contains(word))
                || FILE_OPTIONS.contains(&(name, option))
        };
        let known = self.known();
        match known.iter().find(|known| known.name == key) {
            Some(found) => {
                Ok(known.iter().any(|known| known.place == found.place && is_file(&known.name)))
            }
            None if self.inherits(key)? => Ok(is_file(key)),
            None => Err(Error::invalid(format!("has no option '{key}'"))),
        }
    }

    /// Whether `key` is an option of every filter, or of what the filter is made of (the scaler,
    /// what keeps two inputs in step).
    fn inherits(&self, key: &str) -> Result<bool> {
        let key = ff::c_string(key)?;
        let flags = (ffi::AV_OPT_SEARCH_FAKE_OBJ | ffi::AV_OPT_SEARCH_CHILDREN) as c_int;
        // SAFETY: with FAKE_OBJ only the classes are looked at, which are static.
        unsafe {
            let all = ffi::avfilter_get_class();
            Ok([self.0, all].iter().filter(|class| !class.is_null()).any(|class| {
                let object: *mut c_void = (&raw const *class).cast_mut().cast();
                !ffi::av_opt_find(object, key.as_ptr(), ptr::null(), 0, flags).is_null()
            }))
        }
    }
}

fn nearest(name: &str) -> String {
    did_you_mean(name, PER_FRAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use frameloom_core::ErrorKind;
    use proptest::prelude::*;

    #[test]
    fn graphs_are_read_as_libavfilter_reads_them() {
        let graph =
            r"[in]split[a][b];[a]hflip[c];[b][c]overlay=x='10,5':y=3,eq@me=1.5:brightness=0.1";
        let names: Vec<String> = read(graph).unwrap().into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["split", "hflip", "overlay", "eq"]);
        assert!(read("[a").is_err());
        assert!(footprint("hflip]").is_err());
        assert!(read("sws_flags=bicubic;hflip").is_err());
    }

    #[test]
    fn footprints_follow_the_table() {
        let of = |graph: &str| footprint(graph).unwrap();
        assert_eq!(of("hflip,eq=contrast=1.2"), Footprint::PerFrame);
        assert_eq!(of("yadif"), Footprint::Window { before: 1, after: 1 });
        assert_eq!(of("hqdn3d"), Footprint::Sequential);
        assert_eq!(of("hue=H=n/10"), Footprint::Sequential);
        assert_eq!(of("negate=enable='between(n,2,5)'"), Footprint::Sequential);
        assert_eq!(of("noise=alls=10"), Footprint::Sequential);
    }

    #[test]
    fn what_reaches_a_file_or_changes_the_number_of_frames_is_refused() {
        for graph in [
            "movie=/etc/passwd",
            "movie@x=/etc/passwd[m];[in][m]overlay",
            "[in]null[a];movie=x[b];[a][b]overlay",
            "drawtext=textfile=/etc/passwd",
            "drawtext=text=x:fontfile=/etc/x",
            "drawtext=fontfile=/x:text=a",
            "drawtext=/etc/font.ttf",
            "metadata=print:file=/tmp/x",
            "curves=psfile=/etc/passwd",
            "lut3d=/x.cube",
            "subtitles=x.srt",
            "frei0r=x",
            // Two levels of quotes and escapes: the inner one shows only once the outer is off.
            r"drawtext=font=Sans\\:text=hi:fontsize='30:textfile=/x'",
            r"drawtext='text=a:textfile=/x'",
            r"drawtext=text=a\:textfile=/x",
            r"drawtext=text=a:t\extfile=/x",
            "asr=logfn=/tmp/x",
            "life=f=/etc/passwd",
            "[in]null[a];life[b];[a][b]overlay",
            "[in]null[a];gradients[b];[a][b]blend",
            "fieldhint=hint=/x",
            "nnedi=weights=/x",
            "sofalizer=sofa=/x",
            "arnndn=m=/x",
            "curves=plot=/tmp/x",
            "selectivecolor=psfile=/x",
            "hflip=nosuchoption=1",
            "hflip=/enable=/x",
            "fps=5",
            "select='eq(n,1)'",
            "setpts=2*PTS",
            "yadif=1",
            "yadif=mode=send_field",
            "bwdif",
            "nosuchfilter",
        ] {
            let error = footprint(graph).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{graph}");
            assert!(error.message().contains(graph), "{error}");
        }
    }

    #[test]
    fn what_expressions_remember_is_seen_behind_quotes() {
        for graph in [
            r"rotate=a='n/10'",
            r"rotate='a=n/10'",
            r"rotate=a=if(gt(t\,1)\,n\,0)",
            r"rotate=a=\'n\'",
            "scroll=h=0.1",
        ] {
            assert_eq!(footprint(graph).unwrap(), Footprint::Sequential, "{graph}");
        }
        assert_eq!(footprint(r"rotate=a=if(gt(t\,1)\,2\,0)").unwrap(), Footprint::PerFrame);
        assert_eq!(footprint("scale=32:24:sws_dither=none").unwrap(), Footprint::PerFrame);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            if let Ok(filters) = read(&text) {
                prop_assert!(filters.iter().all(|f| !f.name.is_empty()));
            }
        }
    }
}
