import pytest
import torch

from calm_bench.codecs.loading import load_codec
from calm_bench.codecs.streaming import StreamingDecoder


@pytest.mark.parametrize("name", ["vae-debug", "rvq-debug"])
@pytest.mark.parametrize("at_most", [1, 3, 16])
def test_a_thread_decodes_what_steps_decode(name: str, at_most: int) -> None:
    codec = load_codec(name)
    codec.prepare()
    wave = torch.randn(2, 11 * codec.hop_length, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        frames = codec.encode(wave * 0.1)
        frames = frames if codec.continuous else frames.transpose(1, 2)
        state = codec.start_decoding(2)
        steps = [codec.decode_step(frame, state) for frame in frames.unbind(1)]
        with StreamingDecoder(codec, batch_size=2, at_most=at_most) as decoder:
            for frame in frames.unbind(1):
                decoder.put(frame)
            decoder.close()
            parts = list(decoder)
    assert max(part.shape[1] for part in parts) <= at_most * codec.hop_length
    torch.testing.assert_close(torch.cat(parts, 1), torch.cat(steps, 1), atol=1e-5, rtol=0)


def test_what_goes_wrong_in_the_thread_is_raised_where_audio_is_asked_for() -> None:
    with StreamingDecoder(load_codec("vae-debug")) as decoder:
        decoder.put(torch.zeros(1, 99))
        with pytest.raises(RuntimeError):
            list(decoder)


def test_nothing_in_is_nothing_out() -> None:
    with StreamingDecoder(load_codec("vae-debug")) as decoder:
        decoder.close()
        assert list(decoder) == []
