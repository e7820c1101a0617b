//! The values of a TensorBoard event: scalars, histograms, images, texts and the layout of charts, as protocol buffers.

use protobuf::{Message, RepeatedField};
use tensorboard_proto::layout::{Category, Chart, Layout, MultilineChartContent};
use tensorboard_proto::summary::{
    HistogramProto, Summary_Image, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData,
};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::{TensorShapeProto, TensorShapeProto_Dim};
use tensorboard_proto::types::DataType;

/// How many buckets a histogram over measured numbers has.
const BUCKETS: usize = 30;

fn value(tag: &str) -> Summary_Value {
    let mut value = Summary_Value::new();
    value.set_tag(tag.to_owned());
    value
}

pub(super) fn scalar(tag: &str, number: f64) -> Summary_Value {
    let mut value = value(tag);
    value.set_simple_value(number as f32);
    value
}

/// What tells TensorBoard which of its plugins shows a value.
pub(super) fn plugin(name: &str, content: Vec<u8>) -> SummaryMetadata {
    let mut data = SummaryMetadata_PluginData::new();
    data.set_plugin_name(name.to_owned());
    data.set_content(content);
    let mut metadata = SummaryMetadata::new();
    metadata.set_plugin_data(data);
    metadata
}

/// A value for a plugin that reads its metadata alone.
pub(super) fn metadata(tag: &str, metadata: SummaryMetadata) -> Summary_Value {
    let mut value = value(tag);
    value.set_metadata(metadata);
    value
}

/// A tensor with one string.
fn string(tag: &str, plugin_name: &str, bytes: Vec<u8>) -> Summary_Value {
    let mut one = TensorShapeProto_Dim::new();
    one.set_size(1);
    let mut shape = TensorShapeProto::new();
    shape.set_dim(RepeatedField::from(vec![one]));
    let mut tensor = TensorProto::new();
    tensor.set_dtype(DataType::DT_STRING);
    tensor.set_tensor_shape(shape);
    tensor.set_string_val(RepeatedField::from(vec![bytes]));
    let mut value = metadata(tag, plugin(plugin_name, Vec::new()));
    value.set_tensor(tensor);
    value
}

/// A text in Markdown.
pub(super) fn text(tag: &str, markdown: &str) -> Summary_Value {
    string(tag, "text", markdown.as_bytes().to_vec())
}

/// An image of `width` × `height` pixels as a PNG file.
pub(super) fn image(tag: &str, width: u32, height: u32, png: Vec<u8>) -> Summary_Value {
    let mut image = Summary_Image::new();
    image.set_width(width as i32);
    image.set_height(height as i32);
    image.set_colorspace(3);
    image.set_encoded_image_string(png);
    let mut value = value(tag);
    value.set_image(image);
    value
}

/// The charts under "Custom scalars": bits in both conventions with their budget, and both accuracies.
pub(super) fn chart() -> Summary_Value {
    let chart = |title: &str, tags: &[&str]| {
        let mut content = MultilineChartContent::new();
        content.set_tag(RepeatedField::from(tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>()));
        let mut chart = Chart::new();
        chart.set_title(title.to_owned());
        chart.set_multiline(content);
        chart
    };
    let mut category = Category::new();
    category.set_title("run".to_owned());
    category.set_chart(RepeatedField::from(vec![
        chart("bits per value and their budget", &["bits/fixed_length", "bits/budget", "bits/stored_convention"]),
        chart("top-1 in percent", &["validation/top1", "train/top1"]),
    ]));
    let mut layout = Layout::new();
    layout.set_category(RepeatedField::from(vec![category]));
    // Plain fields always serialize.
    string("custom_scalars__config__", "custom_scalars", layout.write_to_bytes().unwrap_or_default())
}

/// Numbers with their counts, in buckets.
pub(super) struct Buckets {
    /// Upper end of each bucket, and what is in it.
    buckets: Vec<(f64, f64)>,
    /// Least and largest number.
    ends: (f64, f64),
    /// Count, sum, and sum of squares.
    sums: (f64, f64, f64),
}

impl Buckets {
    /// Buckets of one width over numbers and their counts; none without a finite number.
    pub(super) fn even(numbers: &[(f64, f64)]) -> Option<Self> {
        let numbers: Vec<(f64, f64)> = numbers.iter().copied().filter(|(number, _)| number.is_finite()).collect();
        let least = numbers.iter().map(|(number, _)| *number).reduce(f64::min)?;
        let most = numbers.iter().map(|(number, _)| *number).reduce(f64::max)?;
        let width = (most - least) / BUCKETS as f64;
        let limits: Vec<f64> = match width > 0.0 {
            true => (1..=BUCKETS).map(|bucket| least + width * bucket as f64).collect(),
            // All the same number: TensorBoard draws no bucket without a width.
            false => vec![most + 0.5],
        };
        Some(Self::of(&numbers, &limits))
    }

    /// A bucket for each whole code; none if there is no code.
    pub(super) fn of_codes(codes: &[(f64, f64)]) -> Option<Self> {
        let there = |(_, count): &&(f64, f64)| *count > 0.0;
        let (first, last) = (codes.iter().find(there)?.0, codes.iter().rev().find(there)?.0);
        let codes: Vec<(f64, f64)> = codes.iter().copied().filter(|(code, _)| (first..=last).contains(code)).collect();
        let limits: Vec<f64> = codes.iter().map(|(code, _)| code + 0.5).collect();
        Some(Self::of(&codes, &limits))
    }

    fn of(numbers: &[(f64, f64)], limits: &[f64]) -> Self {
        let mut buckets: Vec<(f64, f64)> = limits.iter().map(|&limit| (limit, 0.0)).collect();
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        let mut sums = (0.0, 0.0, 0.0);
        for &(number, count) in numbers.iter().filter(|(_, count)| *count > 0.0) {
            // Rounding must not push the largest number out of the last bucket.
            let bucket = limits.iter().position(|&limit| number <= limit).unwrap_or(limits.len() - 1);
            buckets[bucket].1 += count;
            (least, most) = (least.min(number), most.max(number));
            sums = (sums.0 + count, sums.1 + count * number, sums.2 + count * number * number);
        }
        Self { buckets, ends: (least, most), sums }
    }

    pub(super) fn histogram(&self, tag: &str) -> Summary_Value {
        let mut histogram = HistogramProto::new();
        histogram.set_min(self.ends.0);
        histogram.set_max(self.ends.1);
        histogram.set_num(self.sums.0);
        histogram.set_sum(self.sums.1);
        histogram.set_sum_squares(self.sums.2);
        // TensorBoard takes the first bucket to begin at the least number.
        histogram.set_bucket_limit(self.buckets.iter().map(|(limit, _)| *limit).collect());
        histogram.set_bucket(self.buckets.iter().map(|(_, count)| *count).collect());
        let mut value = value(tag);
        value.set_histo(histogram);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_its_bucket() {
        let buckets = Buckets::even(&[(-2.0, 1.0), (0.0, 2.0), (1.0, 3.0), (f64::NEG_INFINITY, 9.0)]).unwrap();
        assert_eq!((buckets.buckets.len(), buckets.ends), (BUCKETS, (-2.0, 1.0)));
        assert_eq!(buckets.sums, (6.0, 1.0, 7.0));
        assert_eq!((buckets.buckets[0].1, buckets.buckets[BUCKETS - 1].1), (1.0, 3.0));
        assert_eq!(buckets.buckets.iter().map(|(_, count)| count).sum::<f64>(), 6.0);
        assert_eq!(Buckets::even(&[(3.0, 4.0)]).unwrap().buckets, [(3.5, 4.0)]);
        assert!(Buckets::even(&[(f64::NAN, 1.0)]).is_none() && Buckets::even(&[]).is_none());
    }

    #[test]
    fn codes_have_a_bucket_each_and_empty_ends_none() {
        let buckets = Buckets::of_codes(&[(-2.0, 0.0), (-1.0, 4.0), (0.0, 0.0), (1.0, 6.0), (2.0, 0.0)]).unwrap();
        assert_eq!(buckets.buckets, [(-0.5, 4.0), (0.5, 0.0), (1.5, 6.0)]);
        assert!(Buckets::of_codes(&[(0.0, 0.0)]).is_none());
    }
}
