#include "repository/chain_host.h"

namespace isr {
namespace {

using test::Host;
using test::kId;
using test::kind_thrown_by;
using test::make_head;
using test::MemoryStore;

/// Counts the puts of one name, and refuses them on demand.
class CountingStore : public MemoryStore {
 public:
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    if (name == head_name(kId, 1)) {
      ++puts;
      if (is_full) throw Error(ErrorKind::kIo, "the store is full");
    }
    return MemoryStore::put_new(name, bytes, stop);
  }
  int puts = 0;
  bool is_full = false;
};

TEST_CASE("our head that is found in the repository is put again, so that it is durable", "[repository]") {
  const auto store = std::make_shared<CountingStore>();
  Host host(store);
  const Bytes head = make_head(HeadPlace{});
  REQUIRE(host.chain.publish(1, head));
  CHECK(store->puts == 1);
  SECTION("by the same publish again") {
    REQUIRE(host.chain.publish(1, head));
    CHECK(store->puts == 2);
  }
  SECTION("when its session asks for it") {
    host.chain.make_durable(*host.chain.newest());
    CHECK(store->puts == 2);
  }
  SECTION("and does not count as published when that fails") {
    store->is_full = true;
    CHECK(kind_thrown_by([&] { host.chain.publish(1, head); }) == ErrorKind::kTransient);
    CHECK(kind_thrown_by([&] { host.chain.make_durable(*host.chain.newest()); }) == ErrorKind::kTransient);
  }
}

}  // namespace
}  // namespace isr
