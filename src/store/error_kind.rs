//! The kinds of errors: what MongoDB's codes ask for.
//!
//! Codes and names are those of MongoDB's `error_codes.yml`, 6.0 to 8.0.

/// What an error asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It passes: the network, an election, a full disk, a quota, a shutdown. Wait and repeat.
    Unavailable,
    /// Somebody else was faster, or the transaction or the client no longer exists: begin again.
    Conflict,
    /// Too much at once: again with half of it, down to one document.
    TooLarge,
    /// MongoDB says no, and will say so again.
    Refused,
    /// A privilege is missing.
    Denied,
    /// The login is refused, or was lost.
    Authentication,
}

impl Kind {
    /// It is about MongoDB as a whole, not about what was asked.
    pub fn is_general(self) -> bool {
        matches!(self, Unavailable | Authentication)
    }

    /// It is about what was asked, which will be refused again.
    pub fn is_refusal(self) -> bool {
        matches!(self, TooLarge | Refused | Denied)
    }
}

use Kind::{Authentication, Conflict, Denied, Refused, TooLarge, Unavailable};

/// Every code that is treated in its own way, and some refusals for the sake of their names: in the reply to a write command a
/// refused row has a code without a name. What is not here is refused.
const CODES: [(i32, &str, Kind); 104] = [
    // The network, between us and MongoDB or within it.
    (6, "HostUnreachable", Unavailable),
    (7, "HostNotFound", Unavailable),
    (89, "NetworkTimeout", Unavailable),
    (202, "NetworkInterfaceExceededTimeLimit", Unavailable),
    (279, "ClientDisconnect", Unavailable),
    (317, "ConnectionPoolExpired", Unavailable),
    (384, "ConnectionError", Unavailable),
    (407, "PooledConnectionAcquisitionExceededTimeLimit", Unavailable),
    (9001, "SocketException", Unavailable),
    // Elections and shutdowns.
    (90, "CallbackCanceled", Unavailable),
    (91, "ShutdownInProgress", Unavailable),
    (94, "NotYetInitialized", Unavailable),
    (133, "FailedToSatisfyReadPreference", Unavailable),
    (134, "ReadConcernMajorityNotAvailableYet", Unavailable),
    (189, "PrimarySteppedDown", Unavailable),
    (216, "ElectionInProgress", Unavailable),
    (303, "SplitHorizonChange", Unavailable),
    (333, "ServiceExecutorInShutdown", Unavailable),
    (10058, "LegacyNotPrimary", Unavailable),
    (10107, "NotWritablePrimary", Unavailable),
    (11600, "InterruptedAtShutdown", Unavailable),
    (11602, "InterruptedDueToReplStateChange", Unavailable),
    (13435, "NotPrimaryNoSecondaryOk", Unavailable),
    (13436, "NotPrimaryOrSecondary", Unavailable),
    // A new primary has not read the keys of cluster times yet.
    (204, "TimeProofMismatch", Unavailable),
    (205, "ClusterTimeFailsRateLimiter", Unavailable),
    (209, "StaleClusterTime", Unavailable),
    (210, "CannotVerifyAndSignLogicalTime", Unavailable),
    (211, "KeyNotFound", Unavailable),
    // A majority did not confirm it in time.
    (64, "WriteConcernTimeout", Unavailable),
    (75, "WriteConcernLegacyOK", Unavailable),
    (79, "UnknownReplWriteConcern", Unavailable),
    (100, "UnsatisfiableWriteConcern", Unavailable),
    // Time limits, and operations that somebody ended.
    (50, "MaxTimeMSExpired", Unavailable),
    (262, "ExceededTimeLimit", Unavailable),
    (11601, "Interrupted", Unavailable),
    (46841, "ClientMarkedKilled", Unavailable),
    // A cursor that no longer exists, because its primary or its collection does not.
    (43, "CursorNotFound", Unavailable),
    (136, "CappedPositionLost", Unavailable),
    (175, "QueryPlanKilled", Unavailable),
    (237, "CursorKilled", Unavailable),
    // Disk, quota, read-only, overload.
    (39, "FileStreamFailed", Unavailable),
    (42, "LogWriteFailed", Unavailable),
    (215, "DatabaseDropPending", Unavailable),
    (261, "TooManyLogicalSessions", Unavailable),
    (264, "TooManyFilesOpen", Unavailable),
    (355, "InterruptedDueToStorageChange", Unavailable),
    (365, "TemporarilyUnavailable", Unavailable),
    (371, "UserWritesBlocked", Unavailable),
    (402, "ResourceExhausted", Unavailable),
    (433, "AdmissionQueueOverflow", Unavailable),
    (449, "RateLimitExceeded", Unavailable),
    (450, "PooledConnectionAcquisitionRejected", Unavailable),
    (462, "IngressRequestRateLimitExceeded", Unavailable),
    (14031, "OutOfDiskSpace", Unavailable),
    // A sharded cluster that is being rearranged.
    (63, "StaleShardVersion", Unavailable),
    (149, "NoConfigPrimary", Unavailable),
    (150, "StaleEpoch", Unavailable),
    (249, "StaleDbVersion", Unavailable),
    (453, "InterruptedDueToReshardingCriticalSection", Unavailable),
    (13388, "StaleConfig", Unavailable),
    (91331, "RetriableRemoteCommandFailure", Unavailable),
    // Another transaction, another operation, or a snapshot that is too old.
    (24, "LockTimeout", Conflict),
    (46, "LockBusy", Conflict),
    (107, "LockFailed", Conflict),
    (112, "WriteConflict", Conflict),
    (117, "ConflictingOperationInProgress", Conflict),
    (206, "NoSuchSession", Conflict),
    (217, "IncompleteTransactionHistory", Conflict),
    (225, "TransactionTooOld", Conflict),
    (239, "SnapshotTooOld", Conflict),
    (246, "SnapshotUnavailable", Conflict),
    (250, "StaleChunkHistory", Conflict),
    (251, "NoSuchTransaction", Conflict),
    (267, "PreparedTransactionInProgress", Conflict),
    (272, "MigrationConflict", Conflict),
    (282, "TransactionCoordinatorReachedAbortDecision", Conflict),
    (290, "TransactionExceededLifetimeLimitSeconds", Conflict),
    (314, "ObjectIsBusy", Conflict),
    (356, "TxnRetryCounterTooOld", Conflict),
    (363, "RetryableTransactionInProgress", Conflict),
    (12586, "BackgroundOperationInProgressForDatabase", Conflict),
    (12587, "BackgroundOperationInProgressForNamespace", Conflict),
    (146, "ExceededMemoryLimit", TooLarge),
    (257, "TransactionTooLarge", TooLarge),
    (292, "QueryExceededMemoryLimitNoDiskUseAllowed", TooLarge),
    (388, "TransactionTooLargeForCache", TooLarge),
    (10334, "BSONObjectTooLarge", TooLarge),
    (13, "Unauthorized", Denied),
    (18, "AuthenticationFailed", Authentication),
    (214, "AuthenticationRestrictionUnmet", Authentication),
    (334, "MechanismUnavailable", Authentication),
    (391, "ReauthenticationRequired", Authentication),
    (2, "BadValue", Refused),
    (9, "FailedToParse", Refused),
    (14, "TypeMismatch", Refused),
    (26, "NamespaceNotFound", Refused),
    (52, "DollarPrefixedFieldName", Refused),
    (66, "ImmutableField", Refused),
    (85, "IndexOptionsConflict", Refused),
    (86, "IndexKeySpecsConflict", Refused),
    (121, "DocumentValidationFailure", Refused),
    (11000, "DuplicateKey", Refused),
    // Single documents: half of one can not be written.
    (17280, "KeyTooLong", Refused),
];

/// MongoDB's `DuplicateKey`.
pub(super) const DUPLICATE_KEY: i32 = 11000;

/// `AtlasError`, the reply of Atlas's proxy in place of MongoDB's: only the message says what it is about.
pub(super) const ATLAS_ERROR: i32 = 8000;

impl Kind {
    /// Whether it concerns what was written, and not MongoDB as a whole.
    pub fn is_of_content(self) -> bool {
        matches!(self, Self::Refused | Self::TooLarge)
    }

    /// What that code asks for; `None` for a code that is treated as all others are.
    pub(super) fn of_code(code: i32) -> Option<Self> {
        CODES.iter().find(|known| known.0 == code).map(|known| known.2)
    }
}

/// MongoDB's name for that code, for replies that don't say it.
pub(super) fn name_of(code: i32) -> Option<&'static str> {
    CODES.iter().find(|known| known.0 == code).map(|known| known.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_is_listed_twice() {
        let mut codes: Vec<_> = CODES.iter().map(|known| known.0).collect();
        codes.sort_unstable();
        assert!(codes.is_sorted_by(|one, next| one < next), "{codes:?}");
    }
}
