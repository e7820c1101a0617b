//! What can be wrong with a container, its description or the codes for it.

use std::fmt;
use std::io;

use thiserror::Error;

/// A part of a container. Sites are counted from 0 in the directory's order, groups within their site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Container,
    /// The first bytes.
    Header,
    /// The list of sites.
    Directory,
    /// The description of a site.
    Site(usize),
    /// The codes of a group.
    Payload {
        /// The site.
        site: usize,
        /// The group of that site.
        group: usize,
    },
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Container => write!(f, "the container"),
            Part::Header => write!(f, "the header"),
            Part::Directory => write!(f, "the directory"),
            Part::Site(site) => write!(f, "the description of site {site}"),
            Part::Payload { site, group } => write!(f, "the codes of group {group} of site {site}"),
        }
    }
}

/// What went wrong, in which part and at which byte. Offsets count from the container's first byte.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The operating system would not write.
    #[error("{part} can't be written: {source}")]
    Write {
        /// The part.
        part: Part,
        /// The system's reason.
        source: io::Error,
    },
    /// The operating system would not read.
    #[error("{part} can't be read at byte {offset}: {source}")]
    Read {
        /// The part.
        part: Part,
        /// Where it begins.
        offset: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The magic number is another one.
    #[error("this is no activation container: it begins with {found:02x?}")]
    Foreign {
        /// The first bytes.
        found: Vec<u8>,
    },
    /// A version that this program does not know.
    #[error("the container has version {found}, this program reads version {known}")]
    Version {
        /// The container's version.
        found: u32,
        /// The version that is known.
        known: u32,
    },
    /// The header's length and the real one differ: a transfer was cut off, or something was appended.
    #[error("the container says it has {claimed} bytes, but there are {found}")]
    Length {
        /// What the header says.
        claimed: u64,
        /// What is there.
        found: u64,
    },
    /// A part needs more bytes than are left for it.
    #[error("{part} needs {needed} bytes at byte {offset}, but {left} are left")]
    CutOff {
        /// The part.
        part: Part,
        /// Where bytes are missing.
        offset: u64,
        /// Bytes that are needed there.
        needed: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// A part is longer than what it holds.
    #[error("{part} ends at byte {offset}, {surplus} bytes before the end that is stated for it")]
    Surplus {
        /// The part.
        part: Part,
        /// Where its content ends.
        offset: u64,
        /// Bytes that belong to nothing.
        surplus: u64,
    },
    /// A part was damaged.
    #[error("{part} is damaged: its CRC-32 at byte {offset} is {stored:08x}, its content's is {computed:08x}")]
    Checksum {
        /// The part.
        part: Part,
        /// Where the checksum is.
        offset: u64,
        /// The checksum that is stored.
        stored: u32,
        /// The checksum of the content.
        computed: u32,
    },
    /// A number that means nothing.
    #[error("{part}: {field} is {found} at byte {offset}, it must be {expected}")]
    Field {
        /// The part.
        part: Part,
        /// Where the number is.
        offset: u64,
        /// What it is.
        field: &'static str,
        /// The number.
        found: u64,
        /// What it must be.
        expected: String,
    },
    /// A name that is no UTF-8.
    #[error("{part}: the {field} at byte {offset} is no UTF-8")]
    Text {
        /// The part.
        part: Part,
        /// Where the text begins.
        offset: u64,
        /// What it is.
        field: &'static str,
    },
    /// A site is described in a way that makes no sense.
    #[error("site `{site}`{}: {fault}", group.map_or(String::new(), |group| format!(", group {group}")))]
    Layout {
        /// Name of the site.
        site: String,
        /// The group at fault, if it is one.
        group: Option<usize>,
        /// What is wrong.
        fault: LayoutFault,
    },
    /// Two sites have one name.
    #[error("the container has two sites named `{name}`")]
    DuplicateSite {
        /// The name.
        name: String,
    },
    /// More sites, groups or bytes than the format's fields can say.
    #[error("{what} are too many for a container: {found}, the format counts up to {limit}")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many there may be.
        limit: u64,
    },
    /// There is no such site or group.
    #[error("there is no group {group} of site {site}")]
    NoSuchGroup {
        /// The site asked for.
        site: usize,
        /// The group asked for.
        group: usize,
    },
    /// There is no such site.
    #[error("there is no site {site}, the container has {sites}")]
    NoSuchSite {
        /// The site asked for.
        site: usize,
        /// How many there are.
        sites: usize,
    },
    /// Groups were not given in the container's order.
    #[error(
        "group {} of site {} was given, next comes {}", found.1, found.0,
        expected.map_or("the end".to_owned(), |(site, group)| format!("group {group} of site {site}"))
    )]
    Order {
        /// Site and group that come next.
        expected: Option<(usize, usize)>,
        /// Site and group that were given.
        found: (usize, usize),
    },
    /// Groups are missing at the end.
    #[error("the container is not complete: group {group} of site {site} is missing")]
    Incomplete {
        /// Site of the next group.
        site: usize,
        /// The next group.
        group: usize,
    },
    /// More or fewer codes than images, positions and members make.
    #[error("group {group} of site {site} has {expected} values, but {found} codes were given")]
    Count {
        /// The site.
        site: usize,
        /// The group.
        group: usize,
        /// Codes that are needed.
        expected: u64,
        /// Codes that were given.
        found: u64,
    },
    /// A code that the group's quantizer can't make.
    #[error("group {group} of site {site}: code {index} is {code}, its levels reach from {least} to {most}")]
    Code {
        /// The site.
        site: usize,
        /// The group.
        group: usize,
        /// Number of the code in the group.
        index: usize,
        /// The code.
        code: i16,
        /// Least code of the group.
        least: i16,
        /// Largest code of the group.
        most: i16,
    },
    /// A float that is no code.
    #[error("value {index} is {value}, codes are whole numbers from -255 to 255")]
    NotWhole {
        /// Number of the value.
        index: usize,
        /// The value.
        value: f32,
    },
    /// The codes are not those that the plan was made with.
    #[error(
        "group {group} of site {site} takes {found} bytes entropy-coded, {planned} were planned: plan and write with the \
         same codes"
    )]
    PlanDiffers {
        /// The site.
        site: usize,
        /// The group.
        group: usize,
        /// Bytes in the plan.
        planned: u64,
        /// Bytes that these codes take.
        found: u64,
    },
    /// Entropy-coded bytes that no encoder wrote, although their checksum is right.
    #[error("{part} at byte {offset} can't be decoded: {what}")]
    Coded {
        /// The part.
        part: Part,
        /// Where it begins.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// What makes no sense in the description of a site.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum LayoutFault {
    /// A name is too long.
    #[error("the {what} has {bytes} bytes, at most 65535 can be stored")]
    TextTooLong {
        /// Which name.
        what: &'static str,
        /// Its bytes.
        bytes: usize,
    },
    /// A shape without channels, with an empty dimension or with too many dimensions.
    #[error("the shape {shape:?} must have 1 to 255 dimensions, each at least 1")]
    Shape {
        /// The shape.
        shape: Vec<u32>,
    },
    /// The number of values is beyond all measure.
    #[error("images and shape make more than 2^59 values")]
    TooManyValues,
    /// A width that no quantizer has.
    #[error("the width is {bits} bits, it must be 0 (dropped) or {least} to 8")]
    Width {
        /// The width.
        bits: u8,
        /// The least width of a group that is not dropped.
        least: u8,
    },
    /// Levels that the width can't hold, or none.
    #[error("{levels} levels don't fit a width of {bits} bits, which has at most {most} (at least 1 unless dropped)")]
    Levels {
        /// The levels.
        levels: u16,
        /// The width.
        bits: u8,
        /// The most levels of this width.
        most: u16,
    },
    /// A step that is not positive.
    #[error("the step is {step}, it must be positive and finite")]
    Step {
        /// The step.
        step: f32,
    },
    /// A member beyond the channels.
    #[error("there is no member {member} among {channels} channels")]
    Member {
        /// The member.
        member: u32,
        /// Channels of the site.
        channels: u32,
    },
    /// A member of two groups, or twice of one.
    #[error("member {member} is there twice")]
    MemberTwice {
        /// The member.
        member: u32,
    },
    /// Means or a basis of another size.
    #[error("the {what} have {found} numbers, it must be {expected} or none")]
    Floats {
        /// Which numbers.
        what: &'static str,
        /// How many there must be.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// A number is infinite or none.
    #[error("the {what} must be finite")]
    NotFinite {
        /// Which number.
        what: &'static str,
    },
}
