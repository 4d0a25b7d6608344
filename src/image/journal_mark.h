#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/file.h"
#include "image/journal_segment.h"

/// A journal's mark: the file `synced` beside its segments, which says up to which record all of them is durable;
/// docs/formats/journal.md. Each record says so, too, but only of what was durable when it was written: behind a large
/// sync at which the writer was killed, no record does, and the next start would copy all that it covered.
///
/// The mark itself is never synced. A power cut may take it or leave an older one, which says less but nothing wrong.
namespace isr {

/// Records up to `synced` are durable, and so is `newest`, a segment of that journal. A failure is only logged.
void write_mark(const fs::path& directory, const Key& device_key, const JournalSegment& newest,
                std::uint64_t synced) noexcept;

/// The greatest sequence number that is known to be durable. 0: no mark of a journal with these segments can be read.
std::uint64_t read_mark(const fs::path& directory, const Key& device_key,
                        std::span<const std::shared_ptr<JournalSegment>> segments) noexcept;

}  // namespace isr
