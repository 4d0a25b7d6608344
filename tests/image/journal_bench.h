#pragma once

#include <fcntl.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "base/file.h"
#include "image/journal.h"

namespace isr::test {

struct ReplayedCopy {
  RecordKind kind;
  std::uint16_t image;
  std::uint64_t offset;
  std::uint64_t sequence;
  std::uint64_t moment;
  Bytes payload;
  RecordPlace place;
};

/// A journal and what its opening replayed.
struct OpenedJournal {
  OpenedJournal(const fs::path& directory, const Key& key, std::uint64_t mark_after = kMarkAfter) {
    const auto keep = [&](const ReplayedRecord& r) {
      records.push_back({r.kind, r.image, r.offset, r.sequence, r.moment, to_bytes(r.payload), r.place});
    };
    journal = std::make_unique<Journal>(directory, key, keep, mark_after);
  }
  std::vector<ReplayedCopy> records;
  std::unique_ptr<Journal> journal;
};

inline Key device_key() { return hkdf_sha256(as_bytes("device"), {}, "test"); }

inline RecordPlace append_data(Journal& journal, std::uint64_t offset, ByteView payload) {
  const Journal::Entry entry{RecordKind::kData, 3, offset, payload};
  return journal.append({&entry, 1})[0];
}

/// The segments of a journal, oldest first.
inline std::vector<fs::path> segments_of(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".journal") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// A copy of every file: what a kill at this moment would leave.
inline void copy_directory(const fs::path& from, const fs::path& to) {
  fs::remove_all(to);
  make_private_directory(to);
  for (const auto& entry : fs::directory_iterator(from)) fs::copy_file(entry.path(), to / entry.path().filename());
}

inline void flip_byte(const fs::path& file, std::uint64_t offset) {
  const UniqueFd fd = open_file(file, O_RDWR);
  Bytes byte(1);
  read_exact_at(fd.get(), byte, offset, file);
  byte[0] ^= 1;
  write_all_at(fd.get(), byte, offset, file);
}

}  // namespace isr::test
