#include <catch2/catch.hpp>

#include "support/error_kind.h"
#include "support/parcel_place.h"

using namespace isr;

TEST_CASE("latest~N counts versions, not the numbers that junk has used up", "[account]") {
  test::ParcelPlace place;
  const std::string id = place.parcel.chain();
  Chain chain = place.account.chain(id);
  const ParcelVersion version = load_version(place.account, place.parcel).version;
  const auto publish_next = [&] {
    const HeadPlace next = chain.next(chain.newest());
    REQUIRE(chain.publish(next.n, make_head(place.account, place.parcel, next, version)));
  };
  publish_next();
  place.account.remote.store->put_new(head_name(id, 3), as_bytes("junk"));
  chain.accept_older(2, "junk");
  publish_next();
  const auto back = [&](std::uint64_t count) { return load_version(place.account, place.parcel, {{}, {}, count}); };
  CHECK(back(0).head.head.n == 4);
  CHECK(back(1).head.head.n == 2);
  CHECK(back(2).head.head.n == 1);
  CHECK(test::kind_thrown([&] { back(3); }) == ErrorKind::kNotFound);
  CHECK(test::kind_thrown([&] { load_version(place.account, place.parcel, {3, {}, 0}); }) == ErrorKind::kNotFound);
}
