#pragma once

#include <list>
#include <optional>
#include <unordered_map>

#include "chunkstore/object.h"

namespace isr {

/// A hash of the cid. References with the same cid are told apart by ==.
struct ChunkRefHash {
  std::size_t operator()(const ChunkRef& ref) const noexcept { return FixedBytesHash()(ref.cid); }
};

/// Decoded values, found by the reference that opened them. Above `capacity` entries the least recently used one is
/// dropped. The cid alone does not find a value, because a caller with another key for it may not read it. Not
/// thread-safe: put it in a Sync<>.
template <class Value>
class LruByRef {
 public:
  explicit LruByRef(std::size_t capacity = 1) : capacity_(capacity) {}

  std::optional<Value> find(const ChunkRef& ref) {
    const auto it = index_.find(ref);
    if (it == index_.end()) return std::nullopt;
    order_.splice(order_.begin(), order_, it->second);
    return it->second->second;
  }
  bool contains(const ChunkRef& ref) const { return index_.contains(ref); }
  void erase(const ChunkRef& ref) {
    const auto it = index_.find(ref);
    if (it == index_.end()) return;
    order_.erase(it->second);
    index_.erase(it);
  }
  std::optional<Value> remove_oldest() {
    if (order_.empty()) return std::nullopt;
    std::optional<Value> value(std::move(order_.back().second));
    index_.erase(order_.back().first);
    order_.pop_back();
    return value;
  }
  void insert(const ChunkRef& ref, Value value) {
    if (index_.contains(ref)) return;
    order_.emplace_front(ref, std::move(value));
    index_[ref] = order_.begin();
    if (order_.size() > capacity_) {
      index_.erase(order_.back().first);
      order_.pop_back();
    }
  }

 private:
  using Order = std::list<std::pair<ChunkRef, Value>>;
  std::size_t capacity_;
  Order order_;
  std::unordered_map<ChunkRef, typename Order::iterator, ChunkRefHash> index_;
};

}  // namespace isr
