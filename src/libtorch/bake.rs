//! A network whose codecs are plain operations over buffers: a TorchScript file that runs without this project.

use std::ffi::{CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Deserialize;
use tch::Tensor;

use super::error::LibtorchError;
use super::ffi::{self, CBaked, CPlainSite, call};
use super::network::{Network, Position};

/// A codec as numbers, at a site of a [`Network`]. The formulas are those of [`crate::compress::plain`].
#[derive(Debug)]
pub struct BakedSite<'a> {
    /// Index in the network's survey.
    pub index: usize,
    /// The site's name: its codes are found by it.
    pub name: &'a str,
    /// An identifier, unlike any other site's: its buffers are `codecs.<key>.<what>`.
    pub key: &'a str,
    /// Dimensions of the site's tensor, the batch included.
    pub dimensions: usize,
    /// The channels are the last dimension rather than the second.
    pub channels_last: bool,
    /// Let neighbouring layers absorb one half of the transform where that is exact.
    pub fold: bool,
    /// Which side of the activation function the codec stands on.
    pub position: Position,
    /// Step: `[kept]`.
    pub step: &'a Tensor,
    /// What code 0 stands for: `[kept]`.
    pub offset: &'a Tensor,
    /// Least code: `[kept]`.
    pub low: &'a Tensor,
    /// Largest code: `[kept]`.
    pub high: &'a Tensor,
    /// The channel transform; none where the channels themselves are quantized.
    pub transform: Option<BakedTransform<'a>>,
    /// The reconstruction is not below this.
    pub lower_bound: Option<f64>,
}

/// The channel transform of a [`BakedSite`].
#[derive(Debug)]
pub struct BakedTransform<'a> {
    /// `[channels, kept]`.
    pub analysis: &'a Tensor,
    /// `[kept]`.
    pub bias: &'a Tensor,
    /// `[kept, channels]`.
    pub synthesis: &'a Tensor,
    /// `[channels]`.
    pub mean: &'a Tensor,
}

/// What neighbouring layers do along with their own work.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Folded {
    /// Keys of the sites one half of whose transform was folded.
    pub transforms: Vec<String>,
    /// Batch normalisations that were folded into the layer before them, as dotted paths; those in between a transform and
    /// the layer that absorbed it are not among them.
    pub batch_norms: Vec<String>,
}

/// A baked network, ready to be written.
#[derive(Debug)]
pub struct Baked {
    handle: *mut CBaked,
    folded: Folded,
}

impl Drop for Baked {
    fn drop(&mut self) {
        // SAFETY: the handle came from C++ and is freed once.
        unsafe { ffi::dimbit_baked_free(self.handle) }
    }
}

fn text(value: &str, what: &'static str) -> Result<CString, LibtorchError> {
    CString::new(value).map_err(|e| LibtorchError::Call { what, reason: e.to_string() })
}

impl Baked {
    /// Bakes codecs into a copy of a network, in evaluation and on the CPU. The module has two methods:
    /// `forward(images)`, which returns the logits, and `forward_and_codes(images)`, which returns them with a dictionary
    /// of each site's codes by its name: int16, the site's shape with `kept` in the place of the channels.
    ///
    /// # Errors
    /// If the network holds what a plain file can't carry.
    pub fn new(network: &Network, sites: &[BakedSite<'_>], fold_batch_norm: bool) -> Result<Self, LibtorchError> {
        let what = "bake the codecs into the network";
        let names = sites.iter().map(|s| text(s.name, what)).collect::<Result<Vec<_>, _>>()?;
        let keys = sites.iter().map(|s| text(s.key, what)).collect::<Result<Vec<_>, _>>()?;
        let plain = |((site, name), key): ((&BakedSite<'_>, &CString), &CString)| {
            let matrix = |of: fn(&BakedTransform<'_>) -> *const torch_sys::C_tensor| {
                site.transform.as_ref().map_or(std::ptr::null(), of)
            };
            CPlainSite {
                index: site.index as i64,
                position: i64::from(site.position == Position::After),
                dimensions: site.dimensions as i64,
                channels_last: i64::from(site.channels_last),
                fold: i64::from(site.fold),
                has_lower_bound: i64::from(site.lower_bound.is_some()),
                lower_bound: site.lower_bound.unwrap_or(0.0),
                name: name.as_ptr(),
                key: key.as_ptr(),
                step: site.step.as_ptr(),
                offset: site.offset.as_ptr(),
                low: site.low.as_ptr(),
                high: site.high.as_ptr(),
                analysis: matrix(|t| t.analysis.as_ptr()),
                bias: matrix(|t| t.bias.as_ptr()),
                synthesis: matrix(|t| t.synthesis.as_ptr()),
                mean: matrix(|t| t.mean.as_ptr()),
            }
        };
        let plain: Vec<CPlainSite> = sites.iter().zip(&names).zip(&keys).map(plain).collect();
        let (mut handle, mut json) = (std::ptr::null_mut(), std::ptr::null_mut::<c_char>());
        // SAFETY: the network, the sites' tensors and texts outlive the call; what it makes is handed over.
        call(|error| unsafe {
            let (sites, count) = (plain.as_ptr(), plain.len() as i64);
            ffi::dimbit_bake(network.handle(), sites, count, fold_batch_norm.into(), &mut handle, &mut json, error)
        })
        .map_err(|reason| LibtorchError::Call { what, reason })?;
        let mut baked = Self { handle, folded: Folded::default() };
        // SAFETY: C++ hands over a malloc'ed text.
        let json = unsafe { ffi::take_text(json) };
        baked.folded = serde_json::from_str(&json).map_err(|e| LibtorchError::Call { what, reason: e.to_string() })?;
        Ok(baked)
    }

    /// The C++ object, for as long as `self` lives.
    pub(super) fn handle(&self) -> *const CBaked {
        self.handle
    }

    /// What was folded.
    pub fn folded(&self) -> &Folded {
        &self.folded
    }

    /// Writes the module with one extra file: its name and its text.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn save(&self, path: &Path, extra: (&str, &str)) -> Result<(), LibtorchError> {
        let what = "write the baked network";
        let reason = |e: std::ffi::NulError| LibtorchError::Call { what, reason: e.to_string() };
        let path = CString::new(path.as_os_str().as_bytes()).map_err(reason)?;
        let (name, content) = (text(extra.0, what)?, text(extra.1, what)?);
        // SAFETY: all pointers outlive the call.
        call(|error| unsafe {
            ffi::dimbit_baked_save(self.handle, path.as_ptr(), name.as_ptr(), content.as_ptr(), error)
        })
        .map_err(|reason| LibtorchError::Call { what, reason })
    }
}

/// The text of an extra file of a TorchScript archive; none where the archive has none of that name.
///
/// # Errors
/// If the file is no such archive.
pub fn extra_file(path: &Path, name: &str) -> Result<Option<String>, LibtorchError> {
    let what = "read the TorchScript archive";
    let reason = |e: std::ffi::NulError| LibtorchError::Call { what, reason: e.to_string() };
    let path = CString::new(path.as_os_str().as_bytes()).map_err(reason)?;
    let name = text(name, what)?;
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers outlive the call.
    call(|error| unsafe { ffi::dimbit_extra_file(path.as_ptr(), name.as_ptr(), &mut found, error) })
        .map_err(|reason| LibtorchError::Call { what, reason })?;
    // SAFETY: null, or a malloc'ed text that is handed over.
    Ok((!found.is_null()).then(|| unsafe { ffi::take_text(found) }))
}
