//! What a comparison of a run with an export found.

use std::fmt;

use serde::Serialize;

/// The first site, in the network's order, at which an export is wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The site; none if all codes agree and the layers behind the last site are wrong.
    pub site: Option<String>,
    /// Codes (logits) that differ, of the images whose codes agree at every site before.
    pub differ: u64,
    /// Codes (logits) of those images.
    pub of: u64,
    /// Images with such a difference.
    pub images: u64,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Images that both saw.
    pub images: u64,
    /// Images whose predictions agree.
    pub agree: u64,
    /// Top-1 accuracy of the run in percent.
    pub top1_run: f64,
    /// Top-1 accuracy of the file in percent.
    pub top1_file: f64,
    /// Largest absolute difference of two logits.
    pub max_logit_difference: f64,
    /// The same over the images whose codes all agree.
    pub max_logit_difference_same_codes: f64,
    /// Where the export is wrong; none where it isn't.
    pub first_difference: Option<Difference>,
    /// Predictions that differ between two logits of the run that are a tie.
    pub ties: u64,
    /// Predictions that differ since a value that is a tie between two codes fell the other way.
    pub rounded: u64,
    /// Predictions that differ for no such reason.
    pub unexplained: u64,
    /// Codes that fell the other way, at the first site of an image where any did.
    pub codes_rounded: u64,
    /// Images with such a code.
    pub images_rounded: u64,
    /// How far the farthest of those values lies from its boundary, as a part of the largest value of its image and site.
    pub widest_tie: f64,
}

impl Verdict {
    /// Whether the export does what the run does.
    pub fn holds(&self) -> bool {
        self.first_difference.is_none() && self.unexplained == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, agree, top1_run, top1_file, .. } = self;
        writeln!(
            f,
            "{images} images, {agree} predictions agree; top-1 {top1_run:.2} % (run), {top1_file:.2} % (file)"
        )?;
        if self.ties > 0 {
            writeln!(f, "predictions that differ by a tie of the run's two best logits: {}", self.ties)?;
        }
        if self.rounded > 0 {
            writeln!(f, "predictions that differ by a value that is a tie between two codes: {}", self.rounded)?;
        }
        if self.unexplained > 0 {
            writeln!(f, "predictions that differ for no such reason: {}", self.unexplained)?;
        }
        let (any, same) = (self.max_logit_difference, self.max_logit_difference_same_codes);
        writeln!(f, "largest difference of two logits: {any:.2e}, {same:.2e} where all codes agree")?;
        if self.codes_rounded > 0 {
            let (codes, images) = (self.codes_rounded, self.images_rounded);
            let widest = self.widest_tie;
            writeln!(
                f,
                "codes that fell the other way in a tie: {codes}, in {images} images; widest tie {widest:.1e} of the scale"
            )?;
        }
        match &self.first_difference {
            None if self.unexplained > 0 => write!(f, "the file does not do what the run does"),
            None => write!(f, "the file does what the run does"),
            Some(Difference { site: Some(site), differ, of, images }) => {
                write!(f, "first difference: site `{site}`, where {differ} of {of} codes differ, in {images} images")
            }
            Some(Difference { site: None, differ, of, images }) => write!(
                f,
                "first difference: behind the last site, where {differ} of {of} logits differ although all codes agree, in {images} images"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Verdict {
        Verdict {
            images: 1000,
            agree: 998,
            top1_run: 85.2,
            top1_file: 85.1,
            max_logit_difference: 0.0123,
            max_logit_difference_same_codes: 1e-6,
            first_difference: None,
            ties: 1,
            rounded: 1,
            unexplained: 0,
            codes_rounded: 7,
            images_rounded: 6,
            widest_tie: 3e-7,
        }
    }

    #[test]
    fn ties_and_rounded_codes_are_explained() {
        let expected = "\
1000 images, 998 predictions agree; top-1 85.20 % (run), 85.10 % (file)
predictions that differ by a tie of the run's two best logits: 1
predictions that differ by a value that is a tie between two codes: 1
largest difference of two logits: 1.23e-2, 1.00e-6 where all codes agree
codes that fell the other way in a tie: 7, in 6 images; widest tie 3.0e-7 of the scale
the file does what the run does";
        assert_eq!(verdict().to_string(), expected);
        assert!(verdict().holds());
        assert!(!Verdict { unexplained: 1, ..verdict() }.holds());
    }

    #[test]
    fn the_first_difference_is_named() {
        let difference = Difference { site: Some("relu".into()), differ: 5, of: 10, images: 2 };
        let wrong = Verdict { first_difference: Some(difference), ..verdict() };
        assert!(wrong.to_string().ends_with("first difference: site `relu`, where 5 of 10 codes differ, in 2 images"));
        assert!(!wrong.holds());
    }
}
