//! Pure lag arithmetic and the pollers that ask replicas what they have applied.
