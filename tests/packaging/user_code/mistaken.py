"""Sixteen mistakes of a user: type checkers find each of them. Some mistakes are made in several lines."""

from __future__ import annotations

from arbitrageai_native import BidLockManager, LLMService, OpenAI, exceptions


async def results(service: LLMService) -> None:
    answer = await service.complete_async("hi")
    print(answer["contnet"])  # mistake: a key of a result
    print(answer["usage"]["total"])  # mistake: a key of the usage
    print(answer.upper())  # mistake: a result used as a string


async def keywords(service: LLMService, client: OpenAI) -> None:
    client.chat.completions.create(modle="m", messages=[])  # mistake: a keyword of create
    service.complete("hi", temprature=0)  # mistake: a keyword of complete
    await service.complete_async("hi", deadlin=5)  # mistake: a keyword of complete
    service.complete_streaming("hi", max_token=5)  # mistake: a keyword of complete
    service.complete_streaming_async("hi", top_k=5)  # mistake: a keyword of complete
    service.complete_with_fallback("hi", timeot=5)  # mistake: a keyword of complete
    await service.complete_with_fallback_async("hi", max_retry=5)  # mistake: a keyword of complete
    service.complete_many(["hi"], concurency=5)  # mistake: a keyword of complete
    await service.complete_many_async(["hi"], progres=True)  # mistake: a keyword of complete


async def attributes(service: LLMService, client: OpenAI, manager: BidLockManager) -> None:
    print(client.chat.completion)  # mistake: an attribute of the client
    async with manager.with_lock("upwork", "1") as lease:
        print(lease.fencing)  # mistake: an attribute of a lease
    print(service.complete_streaming("hi").finish)  # mistake: an attribute of a stream


async def awaits(service: LLMService, manager: BidLockManager) -> None:
    answer = service.complete_async("hi")
    print(answer["content"])  # mistake: no await before a result is used
    manager.release_lock("upwork", "1")  # mistake: no await of a call for its effect
    for one in service.complete_many_async(["hi"]):  # mistake: no await before an iteration
        print(one)


async def contexts(manager: BidLockManager) -> None:
    with manager.with_lock("upwork", "1"):  # mistake: with for async with
        pass


async def types(service: LLMService) -> None:
    await service.complete_async("hi", timeout="5")  # mistake: the type of timeout
    await service.complete_async(messages="hi")  # mistake: the type of messages
    BidLockManager(database_url=5)  # mistake: the type of database_url
    try:
        await service.complete_async("hi")
    except exceptions.RateLimitedError:  # mistake: the name of an exception
        print("later")
