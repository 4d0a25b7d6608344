#pragma once

#include <map>

#include "base/sync.h"
#include "repository/blob_store.h"

namespace isr::test {

/// A blob store in memory that a test can turn hostile: its blobs can be
/// changed freely, and `age` sets their age.
class MemoryStore : public BlobStore {
 public:
  enum class Listing { kYes, kNo };
  explicit MemoryStore(Listing listing = Listing::kYes) : BlobStore("memory", true), listing_(listing) {}

  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range = {},
                          std::stop_token stop = {}) override {
    check_blob_name(name);
    if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "cancelled");
    auto state = state_.lock();
    ++state->gets;
    const auto found = state->blobs.find(std::string(name));
    if (found == state->blobs.end()) return std::nullopt;
    const Bytes& bytes = found->second;
    const ByteRange wanted = range.value_or(ByteRange{0, bytes.size()});
    const std::uint64_t offset = std::min<std::uint64_t>(wanted.offset, bytes.size());
    const ByteView part =
        ByteView(bytes).subspan(offset, std::min<std::uint64_t>(wanted.length, bytes.size() - offset));
    return Blob{to_bytes(part), state->age};
  }
  std::optional<std::uint64_t> stat(std::string_view name, std::stop_token = {}) override {
    check_blob_name(name);
    auto state = state_.lock();
    const auto found = state->blobs.find(std::string(name));
    if (found == state->blobs.end()) return std::nullopt;
    return found->second.size();
  }
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token = {}) override {
    check_blob_name(name);
    const bool created = state_.lock()->blobs.emplace(std::string(name), to_bytes(bytes)).second;
    return created ? PutResult::kCreated : PutResult::kExists;
  }
  void put_hint(std::string_view name, ByteView bytes, std::stop_token = {}) override {
    check_blob_name(name);
    if (!name.ends_with("/latest")) throw Error(ErrorKind::kUsage, "no hint");
    state_.lock()->blobs[std::string(name)] = to_bytes(bytes);
  }
  std::optional<ListPage> list_page(std::string_view prefix, std::string_view after = {},
                                    std::stop_token = {}) override {
    if (!prefix.ends_with('/')) throw Error(ErrorKind::kUsage, "prefix");
    check_blob_name(std::string(prefix) + "x");
    if (listing_ == Listing::kNo) return std::nullopt;
    ListPageBuilder page;
    auto state = state_.lock();
    for (const auto& [name, bytes] : state->blobs) {
      if (name.starts_with(prefix) && name > after && !page.add(name)) break;
    }
    return page.take();
  }
  bool remove(std::string_view name) override {
    check_blob_name(name);
    return state_.lock()->blobs.erase(std::string(name)) != 0;
  }

  /// Overwrites a blob, which a real store never does.
  void overwrite(const std::string& name, Bytes bytes) { state_.lock()->blobs[name] = std::move(bytes); }
  void set_age(std::optional<std::chrono::seconds> age) { state_.lock()->age = age; }
  std::map<std::string, Bytes> blobs() const { return state_.lock()->blobs; }
  void set_blobs(std::map<std::string, Bytes> blobs) { state_.lock()->blobs = std::move(blobs); }
  std::size_t gets() const { return state_.lock()->gets; }

 private:
  struct State {
    std::map<std::string, Bytes> blobs;
    std::optional<std::chrono::seconds> age{std::chrono::seconds(0)};
    std::size_t gets = 0;
  };
  Listing listing_;
  Sync<State> state_;
};

}  // namespace isr::test
