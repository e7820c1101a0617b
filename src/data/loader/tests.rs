use std::borrow::Cow;
use std::collections::BTreeSet;

use super::*;
use crate::data::{Canvas, CanvasOptions, Dataset};

type Batch = super::Batch<Vec<f32>>;

/// `count` grey images of 4x4; each is filled with its index, which is its label, too.
struct Numbered(usize);

impl Dataset for Numbered {
    fn len(&self) -> usize {
        self.0
    }

    fn image_shape(&self) -> [usize; 3] {
        [1, 4, 4]
    }

    fn image(&self, index: usize) -> Cow<'_, [u8]> {
        Cow::Owned(vec![index as u8; 16])
    }

    fn label(&self, index: usize) -> i64 {
        index as i64
    }
}

fn training() -> LoaderOptions {
    LoaderOptions { batch_size: 4, input: [3, 6, 6], shuffle: true, drop_last: true, seed: 7, threads: 1 }
}

fn evaluation() -> LoaderOptions {
    LoaderOptions { shuffle: false, drop_last: false, ..training() }
}

/// A data set of grey images of 4x4 on the input: in training they are shifted and mirrored.
fn on_canvas(dataset: Arc<dyn Dataset>, options: &LoaderOptions) -> Arc<dyn Samples> {
    let canvas = CanvasOptions {
        input: options.input,
        mean: vec![0.5],
        std: vec![0.25],
        crop_padding: if options.shuffle { 2 } else { 0 },
        horizontal_flip: options.shuffle,
    };
    Arc::new(Canvas::new(dataset, canvas).unwrap())
}

fn loader(images: usize, options: LoaderOptions) -> Loader {
    Loader::new(on_canvas(Arc::new(Numbered(images)), &options), options).unwrap()
}

impl Loader {
    fn epoch(&self, epoch: u64) -> Epoch<Batch> {
        self.epoch_from(epoch, 0)
    }

    fn epoch_from(&self, epoch: u64, skipped: usize) -> Epoch<Batch> {
        let values = self.shape().iter().product();
        // What is left of another batch must not show.
        let memory = move || Ok(vec![f32::NAN; values]);
        self.epoch_with(epoch, skipped, memory, |mut batch: Batch| {
            batch.images.truncate(batch.shape.iter().product());
            batch
        })
    }
}

fn all(epoch: Epoch<Batch>) -> Vec<Batch> {
    epoch.map(Result::unwrap).collect()
}

fn labels(epoch: Epoch<Batch>) -> Vec<i64> {
    all(epoch).into_iter().flat_map(|batch| batch.labels).collect()
}

fn error(images: usize, options: LoaderOptions) -> String {
    Loader::new(on_canvas(Arc::new(Numbered(images)), &options), options).err().unwrap().to_string()
}

#[test]
fn evaluation_shows_every_image_in_order() {
    let loader = loader(10, evaluation());
    let batches = all(loader.epoch(3));
    assert_eq!(batches.len(), loader.steps_per_epoch());
    let shapes: Vec<_> = batches.iter().map(|batch| batch.shape).collect();
    assert_eq!(shapes, [[4, 3, 6, 6], [4, 3, 6, 6], [2, 3, 6, 6]]);
    assert!(batches.iter().all(|batch| batch.images.len() == batch.shape.iter().product::<usize>()));
    assert_eq!(labels(loader.epoch(3)), (0..10).collect::<Vec<_>>());
}

#[test]
fn images_stay_with_their_labels() {
    for batch in all(loader(10, training()).epoch(0)) {
        for (label, image) in batch.labels.iter().zip(batch.images.chunks_exact(3 * 36)) {
            let wanted = (*label as f32 / 255.0 - 0.5) / 0.25;
            // The image's own value and, around it, black.
            assert!(image.contains(&wanted));
            assert!(image.iter().all(|&value| value == wanted || value == -2.0));
        }
    }
}

#[test]
fn training_shows_whole_batches_without_repetition() {
    let loader = loader(10, training());
    assert_eq!(loader.steps_per_epoch(), 2);
    let mut seen = labels(loader.epoch(0));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 8);

    let everything = self::loader(10, LoaderOptions { drop_last: false, ..training() });
    let mut seen = labels(everything.epoch(0));
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
}

#[test]
fn seed_and_epoch_alone_decide() {
    let batches = |options, epoch| all(loader(40, options).epoch(epoch));
    let first = batches(training(), 0);
    assert_eq!(first, batches(training(), 0));
    assert_ne!(first, batches(training(), 1));
    assert_ne!(first, batches(LoaderOptions { seed: 8, ..training() }, 0));
    // In a resumed run, too: an epoch does not need those before it.
    let loader = loader(40, training());
    drop(loader.epoch(0));
    assert_eq!(all(loader.epoch(5)), batches(training(), 5));
}

#[test]
fn an_epoch_goes_on_in_the_middle() {
    let loader = loader(40, training());
    let whole = all(loader.epoch(3));
    for skipped in 0..=whole.len() + 1 {
        assert_eq!(all(loader.epoch_from(3, skipped)), whole.iter().skip(skipped).cloned().collect::<Vec<_>>());
    }
}

#[test]
fn augmentation_does_not_depend_on_the_batch_size() {
    let images = |batch_size| {
        let loader = loader(12, LoaderOptions { batch_size, ..training() });
        all(loader.epoch(2)).into_iter().flat_map(|batch| batch.images).collect::<Vec<_>>()
    };
    assert_eq!(images(3), images(4));
}

#[test]
fn dropping_an_epoch_midway_ends_its_thread() {
    let dataset = Arc::new(Numbered(1000));
    let loader = Loader::new(on_canvas(dataset.clone(), &training()), training()).unwrap();
    let mut epoch = loader.epoch(0);
    assert!(epoch.next().is_some());
    assert_eq!(epoch.size_hint(), (0, Some(249)));
    drop(epoch);
    drop(loader);
    assert_eq!(Arc::strong_count(&dataset), 1);
}

#[test]
#[should_panic(expected = "broken image")]
fn a_panic_is_not_the_end_of_the_epoch() {
    struct Broken;
    impl Dataset for Broken {
        fn len(&self) -> usize {
            8
        }
        fn image_shape(&self) -> [usize; 3] {
            [1, 4, 4]
        }
        fn image(&self, _: usize) -> Cow<'_, [u8]> {
            panic!("broken image")
        }
        fn label(&self, _: usize) -> i64 {
            0
        }
    }
    Loader::new(on_canvas(Arc::new(Broken), &evaluation()), evaluation()).unwrap().epoch(0).count();
}

#[test]
fn options_that_can_not_be_meant_are_refused() {
    assert_eq!(error(0, evaluation()), "the data set has no images");
    let none = LoaderOptions { batch_size: 0, ..evaluation() };
    assert!(error(9, none).starts_with("batch_size is 0"));
    assert_eq!(error(3, training()), "the data set has 3 images, too few for one batch of 4");
    for input in [[3, 1 << 20, 1 << 40], [3, usize::MAX, usize::MAX]] {
        assert!(error(9, LoaderOptions { input, ..training() }).contains("does not fit into memory"));
    }
}

#[test]
fn a_canvas_that_can_not_be_meant_is_refused() {
    let options =
        CanvasOptions { input: [3, 6, 6], mean: vec![0.5], std: vec![0.25], crop_padding: 4, horizontal_flip: false };
    let error = |options| Canvas::new(Arc::new(Numbered(9)), options).err().unwrap().to_string();
    assert!(error(options.clone()).contains("smaller than the images' shorter side, 4"));
    assert!(error(CanvasOptions { input: [3, 3, 6], ..options }).contains("3x3x6"));
}

#[test]
fn an_epoch_goes_on_from_any_batch() {
    for options in [training(), evaluation()] {
        let loader = loader(30, options);
        let whole = all(loader.epoch(3));
        for first in [1, 4, whole.len() - 1, whole.len(), whole.len() + 5] {
            assert_eq!(all(loader.epoch_from(3, first)), whole[first.min(whole.len())..]);
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let batches = |threads| all(loader(37, LoaderOptions { threads, ..training() }).epoch(1));
    assert_eq!(batches(1), batches(2));
    assert_eq!(batches(1), batches(5));
}

/// Images that are their own index, of which some can't be read.
struct Holey {
    broken: BTreeSet<usize>,
    fatal: Option<usize>,
}

impl Samples for Holey {
    fn len(&self) -> usize {
        10
    }
    fn label(&self, index: usize) -> i64 {
        index as i64
    }
    fn render(
        &self,
        index: usize,
        _stored: Option<Result<Stored, String>>,
        _rng: &mut ChaCha8Rng,
        out: &mut [f32],
    ) -> Result<bool, DataError> {
        if self.fatal == Some(index) {
            return Err(DataError::Unreadable { found: vec!["x.jpg: it is torn".into()], limit: 0 });
        }
        out.fill(if self.broken.contains(&index) { f32::NAN } else { index as f32 });
        Ok(!self.broken.contains(&index))
    }
}

#[test]
fn images_that_can_not_be_read_leave_no_gap() {
    for threads in [1, 3] {
        let samples = Holey { broken: BTreeSet::from([1, 4, 5, 6, 7, 9]), fatal: None };
        let options = LoaderOptions { threads, ..evaluation() };
        let batches = all(Loader::new(Arc::new(samples), options).unwrap().epoch(0));
        // The second batch has nothing left.
        let labels: Vec<_> = batches.iter().map(|batch| batch.labels.clone()).collect();
        assert_eq!(labels, [vec![0, 2, 3], vec![8]]);
        for batch in batches {
            assert_eq!(batch.shape, [batch.labels.len(), 3, 6, 6]);
            let values = batch.labels.iter().flat_map(|&label| vec![label as f32; 108]);
            assert_eq!(batch.images, values.collect::<Vec<_>>());
        }
    }
}

#[test]
fn an_error_ends_the_epoch() {
    let samples = Holey { broken: BTreeSet::new(), fatal: Some(5) };
    let mut epoch = Loader::new(Arc::new(samples), evaluation()).unwrap().epoch(0);
    assert_eq!(epoch.next().unwrap().unwrap().labels, [0, 1, 2, 3]);
    let error = epoch.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("x.jpg: it is torn") && error.contains("`max_unreadable` (0)"), "{error}");
    assert!(epoch.next().is_none());
}

#[test]
fn memory_that_is_not_there_ends_the_epoch() {
    let given = std::sync::atomic::AtomicUsize::new(0);
    let memory = move || match given.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => Ok(vec![0.0; 4 * 108]),
        _ => Err(DataError::Memory { reason: "all is taken".into() }),
    };
    let mut epoch = loader(10, evaluation()).epoch_with(0, 0, memory, |batch: Batch| batch.labels);
    assert_eq!(epoch.next().unwrap().unwrap(), [0, 1, 2, 3]);
    let error = epoch.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("all is taken") && error.contains("smaller batch_size"), "{error}");
    assert!(epoch.next().is_none());
}
