#pragma once

#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "account/account.h"
#include "base/progress.h"

namespace isr {

struct CheckFinding {
  std::string where;    ///< "version 3, disk, chunk 17"
  std::string problem;  ///< names the object
};
struct CheckOptions {
  bool deep = false;  ///< fetch, verify and decrypt every object; else check only the pages and the presence of chunks
  bool newest_only = false;
};
struct CheckReport {
  std::uint64_t versions = 0, pages = 0, chunks = 0;
  std::vector<CheckFinding> findings;
};
/// Checks every version of a parcel: the heads form one chain, signatures verify, and every reachable object is there
/// and, with deep, has the right contents. Does not use the cache.
CheckReport check_parcel(Account& account, const ParcelEntry& parcel, const CheckOptions& options, std::stop_token stop,
                         const ProgressFn& progress);

}  // namespace isr
