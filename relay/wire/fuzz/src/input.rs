//! Choices taken from the front of a fuzzer's input, and numbers that follow from a seed.

/// Reads choices from the front of an input. What is missing is 0 or empty, so that every input means something.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next four bytes.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// The next `n` bytes, or as many as there are.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n.min(self.0.len()));
        self.0 = tail;
        head
    }

    /// The next chunk, behind its length of two bytes; `None` at the end.
    pub fn chunk(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let len = u16::from_le_bytes([self.byte(), self.byte()]);
        Some(self.take(len.into()))
    }
}

/// Appends a chunk as [`Input::chunk`] reads it; what is too long is cut.
pub fn put_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&bytes[..len.into()]);
}

/// SplitMix64: the same numbers for the same seed, everywhere.
#[derive(Debug, Clone)]
pub struct Numbers(pub u64);

impl Numbers {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number, below `bound` (0 if that is 0).
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound.max(1) as u64)) as usize
    }
}

/// Lengths of slices, short ones and long ones; none is 0.
pub fn cuts(seed: u8) -> impl FnMut() -> usize {
    let mut numbers = Numbers(seed.into());
    move || {
        let bound = [1, 4, 24, 200, 5000][numbers.below(5)];
        1 + numbers.below(bound)
    }
}
