"""The headers that a host sends with the page, be it ours or a static one."""

# Scripts and requests of the page's own origin only; WebAssembly needs its own word.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "worker-src 'self'",
        "connect-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
ISOLATION = {
    # Both isolate the page, which browsers require before they give it threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    **ISOLATION,
    # Ask each time whether a file has changed; the large ones have addresses that change with them.
    "Cache-Control": "no-cache",
}


def headers_file() -> str:
    """``_headers``, as Netlify and Cloudflare Pages read it; an example for other hosts."""
    return "/*\n" + "".join(f"  {name}: {value}\n" for name, value in HEADERS.items())
