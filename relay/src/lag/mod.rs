//! Pure lag arithmetic and the pollers that ask replicas what they have applied.

mod report;

pub use report::{AppliedReport, Bottleneck, HeadReport, LagReport, ReceivedReport, ReplicaReport, UpstreamReport};
