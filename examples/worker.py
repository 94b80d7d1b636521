"""The smallest worker: DATABASE_URL=… python worker.py. Decks and voices are files of this machine (enqueue.py)."""

from presgen import DatabaseManager, JobStatus, Worker
from presgen.examples.studio import assemble, read_deck, render_slides, speak


def make_video(job):
    slides = render_slides(job.s3_pptx_path, f"{job.s3_pptx_path}.slides")
    job.advance(JobStatus.SYNTHESIZING_AUDIO, slides_count=len(slides))
    for text, slide in zip(read_deck(job.s3_pptx_path), slides, strict=True):
        speak(text.notes, slide.with_suffix(".wav"), voice_sample=job.voice_clone.s3_path)
    job.advance(JobStatus.ASSEMBLING_VIDEO, progress=0.7)
    video = assemble(slides, [slide.with_suffix(".wav") for slide in slides], f"{job.s3_pptx_path}.mp4")
    job.complete(s3_video_path=str(video.path), video_duration_seconds=video.seconds, file_size_bytes=video.size)


with DatabaseManager.from_env() as db:
    Worker(db, make_video).run()  # SIGTERM: finish or release the job in hand, then exit 0
