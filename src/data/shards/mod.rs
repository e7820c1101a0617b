//! Tar files of images and their classes, as WebDataset writes them.
//!
//! A sample is an image `KEY.jpg` (`.jpeg`, `.png`) and its class, a number in text, in `KEY.cls` right before or behind it.
//! The tar files are listed once; then every image is read from its place, and nothing is unpacked.

mod pattern;
mod table;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{DataError, Store, Stored, Stream, cache};
use table::Table;

/// The samples of a split, over all its tar files.
#[derive(Clone, Debug)]
pub struct ShardSet {
    shards: Vec<PathBuf>,
    tables: Vec<Table>,
    /// Index of each tar file's first sample, and the number of samples in the end.
    starts: Vec<usize>,
    buffer: usize,
}

impl ShardSet {
    /// Lists the tar files that `pattern` names: a path with braces, `{000000..000146}` or `{a,b}`. Lists that were kept
    /// in the folder `cache` are taken for files that have not changed since. `buffer`: over how many samples the order of
    /// an epoch is mixed within the tar files.
    ///
    /// # Errors
    /// A pattern that names no file or too many, files that are missing, cut short or no tar files, and samples without
    /// an image or a class.
    pub fn open(pattern: &Path, buffer: usize, cache: Option<&Path>) -> Result<Self, DataError> {
        let shards = pattern::expand(pattern)?;
        let missing: Vec<&PathBuf> = shards.iter().filter(|path| !path.is_file()).collect();
        if let Some(first) = missing.first() {
            let reason = format!("is not there ({} of {} tar files are missing)", missing.len(), shards.len());
            let help = format!("`{}` names it", pattern.display());
            return Err(DataError::Layout { path: first.to_path_buf(), reason, help });
        }
        let mut tables = Vec::with_capacity(shards.len());
        let mut starts = vec![0];
        for shard in &shards {
            let of = format!("tar {}", std::fs::canonicalize(shard).unwrap_or_else(|_| shard.clone()).display());
            let kept = cache.and_then(|cache| cache::read::<Table>(cache, &of));
            let table = match kept.filter(|kept| kept.holds(shard)) {
                Some(kept) => kept,
                None => {
                    let table = Table::of(shard)?;
                    if let Some(cache) = cache.filter(|_| table.settled()) {
                        cache::write(cache, &of, &table);
                    }
                    table
                }
            };
            starts.push(starts.last().copied().unwrap_or_default() + table.samples.len());
            tables.push(table);
        }
        Ok(Self { shards, tables, starts, buffer: buffer.max(1) })
    }

    /// Checks that every label is below `outputs`, the number of the network's outputs.
    ///
    /// # Errors
    /// [`DataError::Classes`] with both numbers.
    pub fn check_outputs(&self, outputs: usize) -> Result<(), DataError> {
        let labels = self.tables.iter().zip(&self.shards);
        let labels = labels.flat_map(|(table, path)| table.samples.iter().map(move |sample| (sample.class, path)));
        match labels.max() {
            Some((most, path)) if most >= outputs as u64 => {
                Err(DataError::Classes { path: path.clone(), classes: most as usize + 1, outputs })
            }
            _ => Ok(()),
        }
    }

    /// The tar file of a sample, and its place there.
    fn find(&self, index: usize) -> (usize, usize) {
        let shard = self.starts.partition_point(|&start| start <= index) - 1;
        (shard, index - self.starts[shard])
    }
}

impl Store for ShardSet {
    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or_default()
    }

    fn label(&self, index: usize) -> i64 {
        let (shard, at) = self.find(index);
        self.tables[shard].samples[at].class as i64
    }

    fn place(&self, index: usize) -> String {
        let (shard, at) = self.find(index);
        format!("{} in {}", self.tables[shard].samples[at].name, self.shards[shard].display())
    }

    fn read(&self, index: usize) -> Result<Stored, String> {
        let (shard, at) = self.find(index);
        let sample = &self.tables[shard].samples[at];
        let mut file = File::open(&self.shards[shard]).map_err(|error| error.to_string())?;
        read_at(&mut file, sample.offset, sample.size)
    }

    /// The tar files in random order, and their samples through a buffer: each that comes in drives a random one out.
    fn order(&self, rng: Option<&mut ChaCha8Rng>) -> Vec<usize> {
        let Some(rng) = rng else { return (0..self.len()).collect() };
        let mut shards: Vec<usize> = (0..self.shards.len()).collect();
        shards.shuffle(rng);
        let mut order = Vec::with_capacity(self.len());
        let mut buffer = Vec::with_capacity(self.buffer.min(self.len()));
        for sample in shards.into_iter().flat_map(|shard| self.starts[shard]..self.starts[shard + 1]) {
            if buffer.len() < self.buffer {
                buffer.push(sample);
            } else {
                let out = rng.random_range(0..buffer.len());
                order.push(std::mem::replace(&mut buffer[out], sample));
            }
        }
        buffer.shuffle(rng);
        order.extend(buffer);
        order
    }

    fn stream(self: Arc<Self>, order: &[usize], from: usize) -> Option<Stream> {
        let mut done = vec![false; self.len()];
        order[..from].iter().for_each(|&index| done[index] = true);
        let rest = order[from..].to_vec();
        Some(Box::new(Reader {
            set: self,
            order: rest.into_iter(),
            done,
            open: HashMap::new(),
            waiting: HashMap::new(),
        }))
    }
}

/// Reads each tar file from its beginning to its end, and keeps what the order has not asked for yet: about as many
/// samples as the order's buffer has.
struct Reader {
    set: Arc<ShardSet>,
    order: std::vec::IntoIter<usize>,
    /// The samples that were given out before.
    done: Vec<bool>,
    /// The tar files that are being read, and their next sample.
    open: HashMap<usize, (Option<File>, usize)>,
    waiting: HashMap<usize, Result<Stored, String>>,
}

impl Iterator for Reader {
    type Item = Result<Stored, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.order.next()?;
        let (shard, at) = self.set.find(index);
        let first = self.set.starts[shard];
        let samples = &self.set.tables[shard].samples;
        let path = &self.set.shards[shard];
        let (file, next) = self.open.entry(shard).or_insert_with(|| (File::open(path).ok(), 0));
        while *next <= at {
            let sample = &samples[*next];
            let index = first + *next;
            *next += 1;
            if !self.done[index] {
                let bytes = match file {
                    Some(file) => read_at(file, sample.offset, sample.size),
                    None => self.set.read(index),
                };
                self.waiting.insert(index, bytes);
            }
        }
        if *next == samples.len() {
            // Read to its end; the entry stays, so that it isn't begun again.
            *file = None;
        }
        Some(self.waiting.remove(&index).unwrap_or_else(|| self.set.read(index)))
    }
}

fn read_at(file: &mut File, offset: u64, size: u64) -> Result<Stored, String> {
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| "it is too large")?];
    let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut bytes));
    read.map_err(|error| format!("it can't be read: {error}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
