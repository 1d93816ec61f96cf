//! The rules of the protocol. Each can be left out, to see that it is needed.

/// A rule of the protocol, and what happens where it is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// An instance counts beside others from 6 s of age. Else at once.
    NewcomersAge,
    /// What was lost and isn't finished is listed as draining. Else never.
    Draining,
    /// It is listed until its results are recorded. Else until the response has come.
    DrainingUntilRecorded,
    /// It begins no request when its heartbeat is older than 8 s. Else it does.
    Stop,
    /// It drops its requests when its heartbeat is older than 9.5 s. Else it lets them end.
    Drop,
    /// The age of a heartbeat counts from sending it. Else from the time when all were read.
    AgeFromSending,
    /// An instance assigns by the members that its written heartbeat lists. Else by those that it has just read.
    WrittenMembers,
    /// It begins only after it has read all heartbeats, its own being written. Else when its own is written.
    ReadAfterWrite,
    /// It gives up what it lost before it writes so. Else when it has read all.
    GiveUpFirst,
    /// A heartbeat updates an older one: it is ignored if it takes effect after a later one, or after the end. Else the last one
    /// that takes effect counts.
    BeatNumber,
    /// What is unsent leaves memory when the assignment is lost. Else it stays there.
    DropUnsent,
    /// What was read before the assignment was lost is not enqueued after. Else it is.
    DropRead,
    /// Only where an instance may begin, it fetches. Else as soon as its members assign it the endpoint.
    FetchWhereItMayBegin,
    /// An endpoint's state is read when it was assigned. Else only when the control number tells of it.
    StateWhenAssigned,
    /// What it had is lost when its heartbeat was older than 9.5 s, though it beats again. Else it goes on with it.
    LapseLoses,
    /// An operation is done when all who live have acknowledged its number. Else at once.
    ControlAcknowledged,
    /// An instance acts before it acknowledges. Else after.
    ControlActedFirst,
    /// A write is done where the version is as it was read. Else anyway.
    Version,
    /// After another version was found, what is still pending is recorded under that one. Else the results are thrown away.
    ReadAgain,
    /// A failure is not recorded if the retry document has more attempts than when it was fetched. Else it is.
    AttemptsCompared,
    /// Whether a transaction was committed is asked until it is known. Else it is taken as done.
    CommitAsked,
    /// Append and mark are one transaction. Else the mark comes first.
    MarkNotFirst,
    /// The same. Else the append comes first.
    AppendNotFirst,
    /// A page is not committed if one of its certificates has changed since it was read. Else it is.
    Snapshot,
    /// What a certificate that needs several transactions has in the outbox is pending with the mark. Else from its append.
    StagedUntilMark,
    /// What the outbox has already is not appended. Else it is.
    LookUp,
    /// The position is saved unless it has a later lease number. Else anyway.
    LeaseNumber,
    /// Who takes the lease puts its number to the position when it reads it. Else with what it saves first.
    NumberWithRead,
    /// The position is saved with the append. Else before it.
    PositionWithAppend,
}

/// All of them, or all but one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules(Option<Rule>);

impl Rules {
    pub const ALL: Self = Self(None);

    pub fn without(rule: Rule) -> Self {
        Self(Some(rule))
    }

    pub fn keep(self, rule: Rule) -> bool {
        self.0 != Some(rule)
    }
}
