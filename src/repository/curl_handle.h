#pragma once

#include <curl/curl.h>
#include <fmt/format.h>

#include <memory>

#include "base/error.h"
#include "base/handle.h"

namespace isr {

using CurlEasy = std::unique_ptr<CURL, FreeWith<curl_easy_cleanup>>;
using CurlMulti = std::unique_ptr<CURLM, FreeWith<curl_multi_cleanup>>;
using CurlList = std::unique_ptr<curl_slist, FreeWith<curl_slist_free_all>>;
using CurlUrl = std::unique_ptr<CURLU, FreeWith<curl_url_cleanup>>;

/// Error{kBug} when curl refuses.
template <class Value>
void set_option(CURL* easy, CURLoption option, Value value) {
  const CURLcode code = curl_easy_setopt(easy, option, value);
  if (code != CURLE_OK)
    throw Error(ErrorKind::kBug,
                fmt::format("curl: option {}: {}", static_cast<int>(option), curl_easy_strerror(code)));
}

/// Error{kBug} unless the call on a multi handle succeeded.
inline void check_multi(CURLMcode code) {
  if (code != CURLM_OK) throw Error(ErrorKind::kBug, fmt::format("curl: {}", curl_multi_strerror(code)));
}

}  // namespace isr
