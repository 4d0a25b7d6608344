#pragma once

#include <list>
#include <optional>
#include <unordered_map>

#include "base/bytes.h"

namespace isr {

/// Values by cid, the least recently used of them dropped above `capacity`
/// entries. Not thread-safe: put it in a Sync<>.
template <class Value>
class LruByCid {
 public:
  explicit LruByCid(std::size_t capacity = 1) : capacity_(capacity) {}

  std::optional<Value> find(const Cid& cid) {
    const auto it = index_.find(cid);
    if (it == index_.end()) return std::nullopt;
    order_.splice(order_.begin(), order_, it->second);
    return it->second->second;
  }
  bool contains(const Cid& cid) const { return index_.contains(cid); }
  void erase(const Cid& cid) {
    const auto it = index_.find(cid);
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
  void insert(const Cid& cid, Value value) {
    if (index_.contains(cid)) return;
    order_.emplace_front(cid, std::move(value));
    index_[cid] = order_.begin();
    if (order_.size() > capacity_) {
      index_.erase(order_.back().first);
      order_.pop_back();
    }
  }

 private:
  using Order = std::list<std::pair<Cid, Value>>;
  std::size_t capacity_;
  Order order_;
  std::unordered_map<Cid, typename Order::iterator, FixedBytesHash> index_;
};

}  // namespace isr
