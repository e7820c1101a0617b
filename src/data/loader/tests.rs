use super::*;
use std::borrow::Cow;

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
    LoaderOptions {
        batch_size: 4,
        input: [3, 6, 6],
        mean: vec![0.5],
        std: vec![0.25],
        crop_padding: 2,
        horizontal_flip: true,
        shuffle: true,
        drop_last: true,
        seed: 7,
    }
}

fn evaluation() -> LoaderOptions {
    LoaderOptions { crop_padding: 0, horizontal_flip: false, shuffle: false, drop_last: false, ..training() }
}

fn loader(images: usize, options: LoaderOptions) -> Loader {
    Loader::new(Arc::new(Numbered(images)), options).unwrap()
}

fn labels(batches: impl Iterator<Item = Batch>) -> Vec<i64> {
    batches.flat_map(|batch| batch.labels).collect()
}

fn error(images: usize, options: LoaderOptions) -> String {
    Loader::new(Arc::new(Numbered(images)), options).err().unwrap().to_string()
}

#[test]
fn evaluation_shows_every_image_in_order() {
    let loader = loader(10, evaluation());
    let batches: Vec<_> = loader.epoch(3).collect();
    assert_eq!(batches.len(), loader.steps_per_epoch());
    let shapes: Vec<_> = batches.iter().map(|batch| batch.shape).collect();
    assert_eq!(shapes, [[4, 3, 6, 6], [4, 3, 6, 6], [2, 3, 6, 6]]);
    assert!(batches.iter().all(|batch| batch.images.len() == batch.shape.iter().product::<usize>()));
    assert_eq!(labels(batches.into_iter()), (0..10).collect::<Vec<_>>());
}

#[test]
fn images_stay_with_their_labels() {
    for batch in loader(10, training()).epoch(0) {
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
    let batches = |options, epoch| loader(40, options).epoch(epoch).collect::<Vec<_>>();
    let first = batches(training(), 0);
    assert_eq!(first, batches(training(), 0));
    assert_ne!(first, batches(training(), 1));
    assert_ne!(first, batches(LoaderOptions { seed: 8, ..training() }, 0));
    // In a resumed run, too: an epoch does not need those before it.
    let loader = loader(40, training());
    drop(loader.epoch(0));
    assert_eq!(loader.epoch(5).collect::<Vec<_>>(), batches(training(), 5));
}

#[test]
fn an_epoch_goes_on_in_the_middle() {
    let loader = loader(40, training());
    let whole: Vec<_> = loader.epoch(3).collect();
    for skipped in 0..=whole.len() + 1 {
        let rest = loader.epoch_from(3, skipped);
        assert_eq!(rest.len(), whole.len().saturating_sub(skipped));
        assert_eq!(rest.collect::<Vec<_>>(), whole.iter().skip(skipped).cloned().collect::<Vec<_>>());
    }
}

#[test]
fn augmentation_does_not_depend_on_the_batch_size() {
    let images = |batch_size| {
        let loader = loader(12, LoaderOptions { batch_size, ..training() });
        loader.epoch(2).flat_map(|batch| batch.images).collect::<Vec<_>>()
    };
    assert_eq!(images(3), images(4));
}

#[test]
fn dropping_an_epoch_midway_ends_its_thread() {
    let dataset = Arc::new(Numbered(1000));
    let loader = Loader::new(dataset.clone(), training()).unwrap();
    let mut epoch = loader.epoch(0);
    assert!(epoch.next().is_some());
    assert_eq!(epoch.len(), 249);
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
    Loader::new(Arc::new(Broken), evaluation()).unwrap().epoch(0).count();
}

#[test]
fn options_that_can_not_be_meant_are_refused() {
    assert_eq!(error(0, evaluation()), "the data set has no images");
    let none = LoaderOptions { batch_size: 0, ..evaluation() };
    assert!(error(9, none).starts_with("batch_size is 0"));
    assert_eq!(error(3, training()), "the data set has 3 images, too few for one batch of 4");
    let shift = LoaderOptions { crop_padding: 4, ..training() };
    assert!(error(9, shift).contains("smaller than the images' shorter side, 4"));
    for input in [[3, 1 << 20, 1 << 40], [3, usize::MAX, usize::MAX]] {
        assert!(error(9, LoaderOptions { input, ..training() }).contains("does not fit into memory"));
    }
    assert!(error(9, LoaderOptions { input: [3, 3, 6], ..training() }).contains("3x3x6"));
}
